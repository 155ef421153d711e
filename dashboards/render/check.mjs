// Usage: node check.mjs BOARD.json...
// Holds dashboards against Grafana's own types; prints what tsc says, fails if it does.
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';

const here = dirname(fileURLToPath(import.meta.url));
const composable = '@grafana/schema/dist/esm/raw/composable';
const types = `
import type { Dashboard, FieldConfig, FieldConfigSource, Panel, RowPanel } from '@grafana/schema';
import type * as graph from '${composable}/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';
import type * as stat from '${composable}/stat/panelcfg/x/StatPanelCfg_types.gen';

// An enum takes none of its own values when they are written out, as in JSON.
type Json<T> = T extends string ? \`\${T}\` : T extends object ? { [K in keyof T]: Json<T[K]> } : T;
type Fields<C> = Omit<FieldConfigSource, 'defaults'> & { defaults: Omit<FieldConfig, 'custom'> & { custom?: C } };
type Of<N extends string, O, C> = Omit<Panel, 'type' | 'options' | 'fieldConfig' | 'targets' | 'datasource'>
  & { type: N; options: Partial<O>; fieldConfig: Fields<C>; targets: Target[]; datasource: Source };
interface Source { type: 'prometheus'; uid: string }
interface Target {
  refId: string; expr: string; legendFormat: string; datasource: Source;
  range?: boolean; instant?: boolean; exemplar?: boolean;
}
type Shown = Of<'timeseries', graph.Options, graph.FieldConfig> | Of<'stat', stat.Options, Record<string, never>>;
export type Board = Json<Omit<Dashboard, 'panels'>> & { panels: Array<Json<Shown> | Json<RowPanel>> };
`;

const folder = await mkdtemp(join(here, 'out-'));
let failed = false;
try {
  await writeFile(join(folder, 'board.ts'), types);
  const files = [];
  for (const board of process.argv.slice(2)) {
    const file = join(folder, `${basename(board)}.ts`);
    await writeFile(file, `import type { Board } from './board';\nexport const board: Board = ${await readFile(board, 'utf8')};\n`);
    files.push(file);
  }
  const program = ts.createProgram(files, {
    strict: true, noEmit: true, skipLibCheck: true, target: ts.ScriptTarget.ES2022,
    module: ts.ModuleKind.ESNext, moduleResolution: ts.ModuleResolutionKind.Bundler, types: [],
  });
  for (const found of ts.getPreEmitDiagnostics(program)) {
    failed = true;
    const at = found.file?.getLineAndCharacterOfPosition(found.start ?? 0);
    const where = found.file ? `${basename(found.file.fileName, '.ts')}:${at.line + 1}` : '';
    console.log(`${where} ${ts.flattenDiagnosticMessageText(found.messageText, '\n')}`);
  }
} finally {
  await rm(folder, { recursive: true });
}
process.exit(failed ? 1 : 0);
