// Usage: node draw.mjs PROMETHEUS SECONDS OUT_FOLDER BOARD.json...
// Draws each board into OUT_FOLDER/BOARD.png; fails when a panel has no data.
import { readFile, mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { chromium } from 'playwright-core';

const [prometheus, seconds, out, ...boards] = process.argv.slice(2);
const here = dirname(fileURLToPath(import.meta.url));
const outfile = join(await mkdtemp(join(tmpdir(), 'boards-')), 'page.js');
await build({
  entryPoints: [join(here, 'page.tsx')],
  outfile,
  bundle: true,
  format: 'iife',
  jsx: 'automatic',
  logLevel: 'error',
  loader: { '.svg': 'dataurl', '.png': 'dataurl', '.woff2': 'dataurl', '.ttf': 'dataurl' },
  define: { 'process.env.NODE_ENV': '"production"', global: 'window' },
});

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox'],
});
let failed = false;
try {
  for (const file of boards) {
    const page = await browser.newPage({ viewport: { width: 1424, height: 900 } });
    page.on('pageerror', (error) => { console.error(error.message); failed = true; });
    // From a page of Prometheus itself, so that nothing else is ever asked for.
    await page.route('**/*', (route) => (route.request().url().startsWith(prometheus) ? route.continue() : route.abort()));
    await page.goto(`${prometheus}/-/ready`);
    await page.setContent('<!doctype html><body style="margin:0"><div id="root"></div></body>');
    await page.addStyleTag({ path: outfile.replace(/js$/, 'css') });
    await page.addScriptTag({ path: outfile });
    const dashboard = JSON.parse(await readFile(file, 'utf8'));
    await page.evaluate((job) => window.draw(job), { dashboard, prometheus, seconds: Number(seconds) });
    await page.waitForSelector('#board');
    await page.waitForTimeout(2500);
    const empty = await page.locator('[data-empty]').evaluateAll((found) => found.map((item) => item.dataset.empty));
    if (empty.length > 0) {
      console.error(`no data: ${empty.join(', ')}`);
      failed = true;
    }
    await page.locator('#board').screenshot({ path: join(out, `${basename(file, '.json')}.png`) });
    await page.close();
  }
} finally {
  await browser.close();
}
process.exit(failed ? 1 : 0);
