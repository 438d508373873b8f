// One picture on its way through the model: attention before and after its quantizer, and its tokens.

/** The picture as an address of its own, drawn from RGB bytes. */
function pictureAddress({ width, height, rgb }) {
  const bytes = Uint8Array.from(atob(rgb), (letter) => letter.charCodeAt(0));
  const canvas = h('canvas', { width, height }), context = canvas.getContext('2d');
  const pixels = context.createImageData(width, height);
  for (let i = 0; i < width * height; ++i) {
    pixels.data.set(bytes.subarray(3 * i, 3 * i + 3), 4 * i);
    pixels.data[4 * i + 3] = 255;
  }
  context.putImageData(pixels, 0, 0);
  return canvas.toDataURL('image/png');
}

/** Values of tokens as a grid over the picture; a row of bars where they do not lie on a grid. */
function drawTokens(svg, { x, y, size, values, grid, low = 0, high, ink }) {
  const extra = grid ? values.length - grid[0] * grid[1] : -1;
  const colour = (each) => d3.interpolateViridis(Math.min(1, Math.max(0, (each - low) / (high - low || 1))));
  const group = svg.append('g').attr('class', 'tokens');
  if (extra >= 0) {
    const side = size / Math.max(grid[0], grid[1]);
    group.selectAll('rect').data(values.slice(extra)).join('rect').attr('x', (_, i) => x + (i % grid[1]) * side)
      .attr('y', (_, i) => y + Math.floor(i / grid[1]) * side).attr('width', side + 0.3).attr('height', side + 0.3).attr('fill', colour);
    return;
  }
  const width = size / values.length;
  group.selectAll('rect').data(values).join('rect').attr('class', ink).attr('x', (_, i) => x + i * width).attr('width', width)
    .attr('y', (each) => y + size - size * Math.min(1, each / (high || 1))).attr('height', (each) => size * Math.min(1, each / (high || 1)));
}

function attentionSection() {
  const { attention, tokens } = page.inspection;
  if (!attention) {
    return [missing('This section follows one picture through the model and shows what the quantizer does to attention:',
      `vvtq inspect ${page.checkpoint()} --data PATH --html page.html`)];
  }
  const { blocks, grid } = attention;
  let block = blocks.length - 1;
  const heads = d3.max(blocks, (each) => each.heads.length);
  const label = h('output', { for: 'block' });
  const slider = h('input', { id: 'block', type: 'range', min: 0, max: blocks.length - 1, step: 1, value: block, oninput: () => {
    block = Number(slider.value);
    update();
  } });
  function update() {
    label.textContent = blocks[block].name;
    slider.setAttribute('aria-valuetext', blocks[block].name);
    maps.redraw();
    errors.redraw();
    if (norms) norms.redraw();
  }

  const address = attention.picture ? pictureAddress(attention.picture) : null;
  const said = [attention.label === null || attention.label === undefined ? null : `class ${attention.label}`, `predicted ${attention.predicted}`];
  function drawMaps(svg, width) {
    const shown = blocks[block].heads, columns = Math.max(1, Math.min(shown.length, Math.floor((width + 16) / 150)));
    const size = Math.min(220, (width - 16 * (columns - 1)) / columns), rowHeight = 2 * size + 66;
    shown.forEach((head, i) => {
      const x = (i % columns) * (size + 16), y = Math.floor(i / columns) * rowHeight, high = d3.max(head.before);
      svg.append('text').attr('class', 'branch').attr('x', x).attr('y', y + 14).text(`head ${i}`);
      svg.append('text').attr('class', 'tick').attr('x', x + size).attr('y', y + 14).attr('text-anchor', 'end').text(`error ${show.number(head.error)}`);
      drawTokens(svg, { x, y: y + 22, size, values: head.before, grid, high, ink: 'before' });
      drawTokens(svg, { x, y: y + size + 30, size, values: head.after, grid, high, ink: 'after' });
    });
    return Math.ceil(shown.length / columns) * rowHeight - 20;
  }
  const maps = figure({ id: 'attention', title: page.inspection.model.family === 'deit' ? 'Attention of the class token' : 'Attention, mean of all tokens', className: 'wide', draw: drawMaps,
    note: 'Above: after softmax. Below: after the quantizer of attention. Bright is high; both pictures of a head have one scale.',
    describe: () => `${blocks[block].name}: mean error of each head: ${blocks[block].heads.map((head) => show.number(head.error)).join(', ')}.` });

  function drawErrors(svg, width) {
    const left = 34, top = 66, cell = Math.min(56, (width - left) / heads), height = Math.min(26, cell);
    const high = d3.max(blocks, (each) => d3.max(each.heads, (head) => head.error)) || 1;
    const colour = (value) => d3.interpolateViridis(Math.max(0, value / high));
    colourLegend(svg, { x: 0, y: 14, width: Math.min(200, width), scale: colour, low: 0, high, text: show.number, title: 'mean |p − q(p)|' });
    blocks.forEach((each, i) => {
      svg.append('text').attr('class', i === block ? 'branch' : 'tick').attr('x', left - 8).attr('y', top + i * height + height / 2 + 4).attr('text-anchor', 'end').text(i);
      each.heads.forEach((head, j) => {
        svg.append('rect').attr('class', i === block ? 'known chosen' : 'known').attr('x', left + j * cell + 1).attr('y', top + i * height + 1)
          .attr('width', cell - 2).attr('height', height - 2).attr('rx', 3).attr('fill', colour(head.error)).append('title').text(`${each.name}, head ${j}: ${show.number(head.error)}`);
      });
    });
    d3.range(heads).forEach((j) => svg.append('text').attr('class', 'tick').attr('x', left + (j + 0.5) * cell).attr('y', top - 6).attr('text-anchor', 'middle').text(j));
    svg.append('text').attr('class', 'axis-title').attr('x', 0).attr('y', top - 6).text('head');
    return top + blocks.length * height + 8;
  }
  const errors = figure({ id: 'errors', title: 'Error of each head, by block', draw: drawErrors,
    describe: () => blocks.map((each, i) => `block ${i}: ${each.heads.map((head) => show.number(head.error)).join(', ')}`).join('; ') });

  const rows = tokens && Array.isArray(tokens.norms) ? tokens.norms : null;
  const norms = rows && figure({ id: 'tokens', title: 'Length of the tokens', note: 'L2 norm of each token behind the chosen block; below, its mean in every block.',
    describe: () => `Mean length by block: ${rows.map((each) => show.number(d3.mean(each))).join(', ')}.`,
    draw(svg, width) {
      const values = rows[Math.min(block, rows.length - 1)], size = Math.min(220, width), [low, high] = d3.extent(values);
      drawTokens(svg, { x: 0, y: 26, size, values, grid, low: grid ? low : 0, high, ink: 'after' });
      svg.append('text').attr('class', 'tick').attr('y', 14).text(`${show.number(low)} (dark) to ${show.number(high)} (bright)`);
      const below = svg.append('g').attr('transform', `translate(0,${size + 34})`);
      const points = rows.map((each, i) => [i, d3.mean(each)]);
      return size + 34 + curves(below, width, { lines: [{ name: 'mean', points }], xTitle: 'block', yTitle: 'mean length', fromZero: true, height: 170 });
    } });
  const picture = h('div', { class: 'picture' }, address && h('img', { src: address, width: 128, height: Math.round(128 * attention.picture.height / attention.picture.width), alt: 'The picture that the model saw' }),
    h('p', {}, said.filter(Boolean).join(', ')));
  label.textContent = blocks[block].name;
  slider.setAttribute('aria-valuetext', blocks[block].name);
  return [h('div', { class: 'controls' }, picture, h('label', { for: 'block' }, 'Block ', slider), label),
    h('div', { class: 'panels' }, maps, errors, norms)];
}
