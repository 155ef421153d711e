// Draws one dashboard with Grafana's own panels, from a live Prometheus.
//
// Grafana's panel plugins are not on npm; what they are made of (@grafana/ui) is. Rows,
// the grid and the two kinds of panels that we use are all the glue there is.
import {
  applyFieldOverrides,
  createTheme,
  dateTime,
  type DataFrame,
  EventBusSrv,
  FieldColorModeId,
  FieldType,
  getDisplayProcessor,
  standardFieldConfigEditorRegistry,
  ThemeContext,
  toDataFrame,
} from '@grafana/data';
import { initPluginTranslations } from '@grafana/i18n';
import { BigValue, GlobalStyles, PanelChrome, PanelContextProvider, TimeSeries } from '@grafana/ui';
import { createRoot } from 'react-dom/client';

interface Target { refId: string; expr: string; legendFormat: string; instant?: boolean }
interface GridPos { x: number; y: number; w: number; h: number }
interface Panel {
  type: string; title: string; description?: string; gridPos: GridPos;
  fieldConfig: any; options: any; targets?: Target[];
}
interface Job { dashboard: { title: string; panels: Panel[] }; prometheus: string; seconds: number }
interface Drawn { panel: Panel; frames: DataFrame[] }

const WIDTH = 1400;
const GAP = 8;
const UNIT = 30;
const STEP_S = 5;
const theme = createTheme({ colors: { mode: 'light' } });

function withValues(expr: string, seconds: number): string {
  return expr
    .replaceAll('$__rate_interval', '30s')
    .replaceAll('$__range', `${seconds}s`)
    .replace(/\$(service|environment|model|error_type)/g, '.*');
}

function named(legend: string, labels: Record<string, string>): string {
  return legend.replace(/\{\{(\w+)\}\}/g, (_, key) => labels[key] ?? '');
}

async function ask(job: Job, target: Target, end: number): Promise<DataFrame[]> {
  const parameters: Record<string, string> = { query: withValues(target.expr, job.seconds) };
  if (target.instant) {
    parameters.time = String(end);
  } else {
    Object.assign(parameters, { start: String(end - job.seconds), end: String(end), step: String(STEP_S) });
  }
  const path = target.instant ? 'query' : 'query_range';
  const answer = await fetch(`${job.prometheus}/api/v1/${path}?${new URLSearchParams(parameters)}`);
  const body = await answer.json();
  if (body.status !== 'success') {
    throw new Error(`${target.expr}: ${body.error}`);
  }
  return body.data.result.map((series: any) => {
    const points: Array<[number, string]> = series.values ?? [series.value];
    const name = named(target.legendFormat, series.metric);
    // Prometheus leaves out what is not there; Grafana shows it as a gap.
    const known = new Map(points.map(([time, value]) => [time, Number(value)]));
    const times = target.instant ? points.map(([time]) => time) : grid(end, job.seconds);
    return toDataFrame({
      refId: target.refId,
      name,
      fields: [
        { name: 'Time', type: FieldType.time, values: times.map((time) => time * 1000) },
        { name, type: FieldType.number, values: times.map((time) => known.get(time) ?? null), config: { displayName: name } },
      ],
    });
  });
}

function grid(end: number, seconds: number): number[] {
  return Array.from({ length: Math.floor(seconds / STEP_S) + 1 }, (_, step) => end - seconds + step * STEP_S);
}

async function prepare(job: Job, panel: Panel, end: number): Promise<Drawn> {
  const frames = (await Promise.all((panel.targets ?? []).map((target) => ask(job, target, end)))).flat();
  const shown = applyFieldOverrides({
    data: frames,
    fieldConfig: { defaults: panel.fieldConfig.defaults, overrides: panel.fieldConfig.overrides ?? [] },
    fieldConfigRegistry: standardFieldConfigEditorRegistry,
    replaceVariables: (text: string) => text,
    theme,
    timeZone: 'utc',
  });
  const { custom, unit, min, max, thresholds } = panel.fieldConfig.defaults;
  shown.forEach((frame, seriesIndex) => {
    for (const field of frame.fields.filter((item) => item.type === FieldType.number)) {
      // What each option means is told by the plugins' registries; there are none here.
      const mode = panel.type === 'stat' ? FieldColorModeId.Thresholds : FieldColorModeId.PaletteClassic;
      field.config = { ...field.config, custom: custom ?? {}, unit, min, max, thresholds, color: { mode } };
      field.state = { ...field.state, seriesIndex };
      field.display = getDisplayProcessor({ field, theme, timeZone: 'utc' });
    }
  });
  return { panel, frames: shown };
}

function numberOf(frames: DataFrame[]) {
  const field = frames[0].fields.find((item) => item.type === FieldType.number)!;
  return field.display!(field.values[field.values.length - 1]);
}

function Body({ drawn, width, height, end, seconds }: { drawn: Drawn; width: number; height: number; end: number; seconds: number }) {
  const { panel, frames } = drawn;
  if (frames.length === 0) {
    return <div data-empty={panel.title}>No data</div>;
  }
  if (panel.type === 'stat') {
    return <BigValue theme={theme} width={width} height={height} value={numberOf(frames)} colorMode={panel.options.colorMode} graphMode={panel.options.graphMode} />;
  }
  const from = dateTime((end - seconds) * 1000);
  const to = dateTime(end * 1000);
  return (
    <TimeSeries
      frames={frames}
      width={width}
      height={height}
      timeRange={{ from, to, raw: { from, to } }}
      timeZone="utc"
      legend={panel.options.legend}
    />
  );
}

function Page({ job, drawn, end }: { job: Job; drawn: Drawn[]; end: number }) {
  const column = (WIDTH - GAP) / 24;
  const bottom = Math.max(...job.dashboard.panels.map((panel) => panel.gridPos.y + panel.gridPos.h));
  const place = (pos: GridPos) => ({
    position: 'absolute' as const,
    left: pos.x * column + GAP,
    top: pos.y * UNIT + 50,
    width: pos.w * column - GAP,
    height: pos.h * UNIT - GAP,
  });
  return (
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <div id="board" style={{ position: 'relative', width: WIDTH + GAP, height: bottom * UNIT + 50, background: theme.colors.background.canvas, color: theme.colors.text.primary }}>
        <div style={{ position: 'absolute', left: GAP * 2, top: 12, fontSize: 20 }}>{job.dashboard.title}</div>
        {job.dashboard.panels.map((panel, index) => {
          const box = place(panel.gridPos);
          if (panel.type === 'row') {
            return <div key={index} style={{ ...box, padding: '2px 8px', fontWeight: 500 }}>{panel.title}</div>;
          }
          const own = drawn.find((item) => item.panel === panel)!;
          return (
            <div key={index} style={box}>
              <PanelChrome title={panel.title} width={box.width} height={box.height}>
                {(width, height) => <Body drawn={own} width={width} height={height} end={end} seconds={job.seconds} />}
              </PanelChrome>
            </div>
          );
        })}
      </div>
    </ThemeContext.Provider>
  );
}

async function draw(job: Job): Promise<void> {
  await initPluginTranslations('otel-intercept');
  const end = Math.floor(Date.now() / 1000 / STEP_S) * STEP_S;
  const panels = job.dashboard.panels.filter((panel) => panel.type !== 'row');
  const drawn = await Promise.all(panels.map((panel) => prepare(job, panel, end)));
  createRoot(document.getElementById('root')!).render(
    <PanelContextProvider value={{ eventsScope: 'global', eventBus: new EventBusSrv() }}>
      <Page job={job} drawn={drawn} end={end} />
    </PanelContextProvider>
  );
}

Object.assign(window, { draw });
