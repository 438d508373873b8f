// The model as a tree: its blocks are rows, the quantizers of a block are cells, coloured by how well they do.

/** Where a quantizer stands: the branch and the row that its path names, and what is left of the path. */
function placeOf(name) {
  const parts = name.split('.');
  let last = parts.length - 2;
  while (last >= 0 && !/^\d+$/.test(parts[last])) --last;
  if (last < 0) last = parts.length - 2;
  if (last < 0) return { branch: '', row: '', rest: name };
  return { branch: parts.slice(0, last).join('.'), row: parts[last], rest: parts.slice(last + 1).join('.') };
}

/** Rows in the order of the model. Columns are what at least two rows share; what one row has alone is named in it. */
function rowsAndColumns(quantizers) {
  const rows = new Map(), uses = new Map();
  for (const quantizer of quantizers) {
    const place = placeOf(quantizer.name), key = `${place.branch}.${place.row}`;
    if (!rows.has(key)) rows.set(key, { ...place, cells: [] });
    rows.get(key).cells.push({ quantizer, rest: place.rest });
    uses.set(place.rest, (uses.get(place.rest) || 0) + 1);
  }
  const inBlocks = (row) => /^\d+$/.test(row.row) && row.cells.length > 2;
  const columns = [...uses.keys()].filter((rest) => uses.get(rest) > 1 && [...rows.values()].some(
    (row) => inBlocks(row) && row.cells.some((cell) => cell.rest === rest)));
  for (const row of rows.values()) {
    row.shared = inBlocks(row) && row.cells.every((cell) => columns.includes(cell.rest));
  }
  return { rows: [...rows.values()], columns };
}

const COLOURINGS = [
  { key: 'snr', label: 'signal to noise', title: 'signal to noise (8 bits may lie beyond)', value: (q) => q.snr_db, text: show.db, scale: (t) => d3.interpolateViridis(t) },
  { key: 'sensitivity', label: 'sensitivity', title: 'loss that the quantizer adds', value: addedLoss, text: (x) => show.signed(x, show.number), scale: (t) => d3.interpolateViridis(1 - t) },
];

function modelTree() {
  const { quantizers } = page.inspection, { rows, columns } = rowsAndColumns(quantizers);
  let colouring = COLOURINGS[0], cells = [], current = 0, scale = null;
  const readout = h('p', { class: 'readout', 'aria-live': 'polite' });
  const known = (each) => quantizers.some((q) => isNumber(each.value(q)));
  const sentence = (q) => `${q.name}: ${show.bits(q.bits)}, ${show.db(q.snr_db)} signal to noise` +
    (isNumber(addedLoss(q)) ? `, adds ${show.signed(addedLoss(q), show.number)} to the loss` : '');

  function colours() {
    const of = (some) => some.map(colouring.value).filter(isNumber);
    const few = of(quantizers.filter((q) => q.bits < 8)), values = few.length > 0 ? few : of(quantizers);
    const [low, high] = values.length > 0 ? d3.extent(values) : [0, 1];
    const to = d3.scaleLinear([low, high === low ? low + 1 : high], [0, 1]).clamp(true);
    return { low, high: high === low ? low + 1 : high, of: (x) => colouring.scale(to(x)) };
  }
  function move(event) {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    const here = cells[current];
    const ahead = cells.map((cell, i) => ({ i, along: (cell.x - here.x) * step[0] + (cell.y - here.y) * step[1],
      aside: Math.abs((cell.x - here.x) * step[1]) + Math.abs((cell.y - here.y) * step[0]) }))
      .filter((cell) => cell.along > 0.5).sort((a, b) => a.aside * 4 + a.along - b.aside * 4 - b.along);
    if (ahead.length > 0) cells[ahead[0].i].node.focus();
  }
  /** The cell where the Tab key stops. */
  function stop(i) {
    cells[current].node.setAttribute('tabindex', '-1');
    current = i;
    cells[i].node.setAttribute('tabindex', '0');
  }
  function drawCell(svg, cell, x, y, width, height) {
    const value = colouring.value(cell.quantizer), colour = isNumber(value) ? scale.of(value) : 'none', i = cells.length;
    const open = () => page.open(cell.quantizer.name);
    const node = svg.append('g').attr('class', 'cell').attr('role', 'button').attr('tabindex', i === current ? 0 : -1)
      .attr('aria-label', sentence(cell.quantizer)).attr('data-name', cell.quantizer.name)
      .on('click', open).on('mouseenter', () => { readout.textContent = sentence(cell.quantizer); })
      .on('focus', () => {
        stop(i);
        readout.textContent = sentence(cell.quantizer);
      })
      .on('keydown', () => {
        if (d3.event.key === 'Enter' || d3.event.key === ' ') {
          d3.event.preventDefault();
          open();
        } else move(d3.event);
      });
    node.append('rect').attr('x', x + 1).attr('y', y + 1).attr('width', width - 2).attr('height', height - 2).attr('rx', 3)
      .attr('class', isNumber(value) ? 'known' : 'unknown').attr('fill', colour);
    if (isNumber(value) && width >= 36) {
      node.append('text').attr('x', x + width / 2).attr('y', y + height / 2 + 4).attr('text-anchor', 'middle')
        .attr('class', 'value').attr('fill', inkOn(colour)).text(d3.format(colouring.key === 'snr' ? '.1f' : '.2~r')(value));
    }
    cells.push({ node: node.node(), x: x + width / 2, y: y + height / 2 });
  }
  function header(svg, y, left, width) {
    columns.forEach((rest, i) => {
      svg.append('text').attr('class', 'tick').attr('transform', `translate(${left + (i + 0.5) * width + 4},${y}) rotate(-52)`).text(rest);
    });
  }
  function draw(svg, width) {
    cells = [];
    scale = colours();
    const left = 34, room = 70, cellWidth = Math.min(76, (width - left - room) / Math.max(4, columns.length)), height = 26;
    let y = 44, branch = null, headed = false, trunk = 0;
    colourLegend(svg, { x: 0, y: 14, width: Math.min(220, width), scale: scale.of, low: scale.low, high: scale.high,
      text: colouring.text, title: colouring.title });
    for (const row of rows) {
      const name = row.shared || row.branch ? row.branch : row.row;
      if (row.branch !== branch || !row.branch) {
        const labels = row.shared && !headed;
        y += 20;
        if (labels) {
          y += 78;
          header(svg, y - 4, left, cellWidth);
          headed = true;
        }
        svg.append('text').attr('class', 'branch').attr('x', 0).attr('y', y - (labels ? 84 : 4)).text(name || 'model');
        branch = row.branch;
        trunk = y - (labels ? 78 : 0);
      }
      svg.append('path').attr('class', 'twig').attr('d', `M5,${trunk}V${y + height / 2}h${row.branch ? 7 : 24}`);
      if (row.branch) svg.append('text').attr('class', 'tick').attr('x', left - 6).attr('y', y + height / 2 + 4).attr('text-anchor', 'end').text(row.row);
      let x = left;
      for (const cell of row.cells) {
        const column = columns.indexOf(cell.rest), box = Math.max(cellWidth, 22);
        if (row.shared) {
          drawCell(svg, cell, left + column * cellWidth, y, cellWidth, height);
          continue;
        }
        const wide = box + 12 + 7 * cell.rest.length;
        if (x > left && x + wide > width) {
          x = left;
          y += height;
        }
        drawCell(svg, cell, x, y, box, height);
        svg.append('text').attr('class', 'tick').attr('x', x + box + 4).attr('y', y + height / 2 + 4).text(cell.rest);
        x += wide;
      }
      y += height;
    }
    mark();
    return y + 6;
  }
  function mark() {
    for (const cell of cells) cell.node.classList.toggle('chosen', cell.node.dataset.name === page.chosen);
  }
  page.listeners.push(mark);

  const chart = figure({ id: 'tree', title: 'Model tree', parts: true, className: 'tree', draw,
    describe: () => `${quantizers.length} quantizers, coloured by ${colouring.label}. Arrow keys go from one to the next, Enter opens it.` });
  const choice = h('fieldset', { class: 'choice' }, h('legend', {}, 'Colour shows'), COLOURINGS.map((each) => h('label', {},
    h('input', { type: 'radio', name: 'colouring', value: each.key, checked: each === colouring, disabled: !known(each),
      onchange: () => {
        colouring = each;
        chart.redraw();
      } }), each.label)));
  const hint = known(COLOURINGS[1]) ? null : missing('Sensitivity is measured on pictures:',
    `vvtq inspect ${page.checkpoint()} --data PATH --sensitivity --html page.html`);
  return [h('div', { class: 'controls' }, choice), hint, chart, readout];
}
