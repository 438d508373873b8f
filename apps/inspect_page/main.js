// Fills the sections, in their order.

function start() {
  page.inspection = JSON.parse(byId('inspection').textContent);
  if (page.inspection.format !== 'vvtq inspect 1') throw new Error(`unknown format ${page.inspection.format}`);
  overview();
  if (page.inspection.quantizers.length === 0) {
    byId('layers').append(missing('This model has no quantizers; make some by', 'vvtq train --wbits 4 --abits 4'));
    byId('quantizer').hidden = true;
  } else {
    byId('layers').append(...modelTree().filter(Boolean), quantizerTable());
    byId('quantizer').append(...quantizerSection());
  }
  byId('picture').append(...attentionSection());
  byId('training').append(...trainingSection().flat());
  byId('compare').append(...compareSection());
  const worst = page.inspection.quantizers.filter((q) => isNumber(q.severity) && canRequantize(q)).sort((a, b) => b.severity - a.severity)[0];
  const first = worst || page.inspection.quantizers[0];
  if (first) page.choose(first.name);
  byId('made').textContent = `Made by vvtq ${page.inspection.version} inspect. The page needs no network.`;
  for (const each of figures) each.redraw();
}

try {
  start();
} catch (error) {
  byId('model-line').textContent = `This page cannot show its inspection: ${error.message}`;
  throw error;
}
