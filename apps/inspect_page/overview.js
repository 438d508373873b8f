// The first screen: what the model is, what it costs, where it hurts.

function tile(label, figures, detail) {
  return h('div', { class: 'tile' }, h('dt', {}, label), h('dd', {}, h('span', { class: 'figure' }, figures),
    h('span', { class: 'detail' }, detail)));
}

function overview() {
  const { inspection } = page, { model, checkpoint, bytes } = inspection, average = inspection.average_bits || {};
  byId('model-name').textContent = model.name;
  document.title = `${model.name} – vvtq inspect`;
  const width = (bits) => (bits >= 1 && bits <= 8 ? `${bits}-bit` : 'float');
  const at = [checkpoint.step === null ? null : `step ${show.count(checkpoint.step)}`, checkpoint.epoch === null ? null : `epoch ${checkpoint.epoch}`]
    .filter((part) => part !== null).join(', ');
  byId('model-line').append(
    `${width(model.wbits)} weights, ${width(model.abits)} activations, ${show.count(model.parameters)} parameters, ` +
    `${model.image_size} × ${model.image_size} pixels, ${show.count(model.classes)} classes. `,
    h('br'), h('code', {}, checkpoint.path || 'no path'), at ? `, ${at}` : '');

  const accuracy = accuracyOf(inspection);
  const smaller = bytes && bytes.packed ? bytes.float / bytes.packed : null;
  byId('tiles').append(
    tile('Top-1 accuracy', show.points(accuracy.top1), accuracy.source),
    tile('Size of the weights', show.bytes(bytes && bytes.packed), isNumber(smaller) ? `${d3.format('.1f')(smaller)} times smaller than ${show.bytes(bytes.float)} in float` : 'packed'),
    tile('Average bits', `${show.number(average.weight)} / ${show.number(average.activation)}`, 'weights / activations'),
    tile('Bit operations', show.large(inspection.bit_operations), 'for one picture'));

  const worst = inspection.quantizers.filter((q) => isNumber(q.severity))
    .sort((a, b) => b.severity - a.severity).slice(0, 5);
  const most = d3.max(worst, (q) => q.severity) || 1;
  byId('worst').append(...worst.map((q) => h('li', {},
    openButton(q),
    h('span', { class: 'meter', role: 'img', 'aria-label': `severity ${show.number(q.severity)}` },
      h('span', { style: `width:${Math.max(2, 100 * Math.max(0, q.severity) / most)}%` })),
    h('span', { class: 'reason' }, q.reason || ''))));
  if (worst.length === 0) byId('worst').replaceWith(h('p', { class: 'missing' }, 'No quantizer has figures yet.'));
  if (!inspection.data) {
    byId('overview').append(missing('Activations have no figures without pictures; this command adds them:',
      `vvtq inspect ${page.checkpoint()} --data PATH --html page.html`));
  }
}
