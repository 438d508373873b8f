// The frame of a figure, and what several figures draw.

const figures = [];

/**
 * A figure with title, description for those who do not see it, and a button to save it. `draw(svg, width)`
 * draws into an empty selection, returns the height, and is called again when the width changes. `parts`: the
 * figure has controls inside, so that it is a group and no picture.
 */
function figure({ id, title, describe, draw, note = null, parts = false, className = '' }) {
  const svg = d3.create('svg').attr('class', 'chart').attr('id', id).attr('role', parts ? 'group' : 'img').attr('aria-label', title);
  const frame = h('div', { class: 'frame' }, svg.node());
  const save = saveButton('SVG', title, () => download(fileName(id, 'svg'), 'image/svg+xml', svgText(svg.node())));
  const node = h('figure', { class: className },
    h('figcaption', {}, h('span', { class: 'title' }, title), save), note ? h('p', { class: 'note' }, note) : null, frame);
  let drawn = 0;
  node.redraw = () => {
    const width = Math.floor(frame.clientWidth);
    if (width < 40) return;
    drawn = width;
    svg.selectAll('*').remove();
    const height = draw(svg, width);
    svg.attr('viewBox', `0 0 ${width} ${height}`).attr('width', width).attr('height', height);
    svg.attr('aria-label', `${title}. ${describe ? describe() : ''}`);
  };
  figures.push(node);
  new ResizeObserver(() => {
    if (Math.floor(frame.clientWidth) !== drawn) node.redraw();
  }).observe(frame);
  return node;
}

/** Axes below and at the left; `y` may be null. */
function axes(svg, { x, y, left, bottom, xTitle, yTitle, xFormat, yFormat, xTicks = 6, xValues = null, yTicks = 5, right = null }) {
  const axis = (call, transform) => svg.append('g').attr('class', 'axis').attr('transform', transform).call(call);
  const below = d3.axisBottom(x).ticks(xTicks).tickValues(xValues).tickSizeOuter(0);
  axis(xFormat ? below.tickFormat(xFormat) : below, `translate(0,${bottom})`);
  if (xTitle) {
    const end = d3.max(x.range());
    svg.append('text').attr('class', 'axis-title').attr('x', end).attr('y', bottom + 34).attr('text-anchor', 'end').text(xTitle);
  }
  if (!y) return;
  const side = (right === null ? d3.axisLeft(y) : d3.axisRight(y)).ticks(yTicks).tickSizeOuter(0);
  axis(yFormat ? side.tickFormat(yFormat) : side, `translate(${right === null ? left : right},0)`);
  if (yTitle) {
    svg.append('text').attr('class', 'axis-title').attr('x', right === null ? 0 : right + 40).attr('y', d3.min(y.range()) - 10)
      .attr('text-anchor', right === null ? 'start' : 'end').text(yTitle);
  }
}

/** A band of colours with its least and greatest value. */
function colourLegend(svg, { x, y, width, scale, low, high, text, title }) {
  const steps = 24;
  svg.append('text').attr('class', 'axis-title').attr('x', x).attr('y', y - 5).text(title);
  for (let i = 0; i < steps; ++i) {
    svg.append('rect').attr('x', x + i * width / steps).attr('y', y).attr('width', width / steps + 0.5).attr('height', 9)
      .attr('fill', scale(low + (high - low) * (i + 0.5) / steps));
  }
  svg.append('text').attr('class', 'tick').attr('x', x).attr('y', y + 22).text(text(low));
  svg.append('text').attr('class', 'tick').attr('x', x + width).attr('y', y + 22).attr('text-anchor', 'end').text(text(high));
}

/** Dark or light writing, whichever is read better on the colour. */
function inkOn(colour) {
  const { r, g, b } = d3.rgb(colour);
  return 0.299 * r + 0.587 * g + 0.114 * b > 140 ? '#101418' : '#ffffff';
}

/** A domain that is never empty. */
function padded(values, share = 0.05) {
  const good = values.filter(isNumber);
  if (good.length === 0) return [0, 1];
  const [low, high] = d3.extent(good), room = high > low ? (high - low) * share : Math.abs(high) * 0.1 || 1;
  return [low - room, high + room];
}

/** Lines of several runs over whole numbers (epochs, blocks), told apart by colour, dashes and a mark in the legend. */
function curves(svg, width, { lines, xTitle, yTitle, yFormat, fromZero = false, height = 220 + 20 * Math.max(0, lines.length - 1) }) {
  const left = 52, right = width - 12, top = 30 + 20 * Math.max(0, lines.length - 1), bottom = height - 42;
  const points = lines.flatMap((line) => line.points);
  const domain = padded(points.map((point) => point[1]));
  const x = d3.scaleLinear(padded(points.map((point) => point[0]), 0), [left, right]);
  const y = d3.scaleLinear([fromZero ? Math.min(0, domain[0]) : domain[0], domain[1]], [bottom, top + 8]);
  axes(svg, { x, y, left, bottom, xTitle, yTitle: null, yFormat, xFormat: String, xValues: x.ticks(Math.min(8, width / 70)).filter(Number.isInteger) });
  svg.append('text').attr('class', 'axis-title').attr('x', 0).attr('y', 12).text(yTitle);
  lines.forEach((line, i) => {
    const style = `series series-${i % 5}`;
    const path = d3.line().defined((point) => isNumber(point[1])).x((point) => x(point[0])).y((point) => y(point[1]));
    svg.append('path').attr('class', style).attr('d', path(line.points));
    const good = line.points.filter((point) => isNumber(point[1]));
    if (good.length === 1) {
      svg.append('circle').attr('class', style + ' dot').attr('r', 3).attr('cx', x(good[0][0])).attr('cy', y(good[0][1]));
    }
    if (lines.length < 2) return;
    svg.append('path').attr('class', style).attr('d', `M${left},${24 + 20 * i}h28`);
    svg.append('text').attr('class', 'legend').attr('x', left + 34).attr('y', 28 + 20 * i).text(shortened(line.name, width - left - 40));
  });
  return height;
}

/** A text of about `width` pixels; its end counts more than its start. */
function shortened(text, width) {
  const most = Math.max(6, Math.floor(width / 7));
  return text.length <= most ? text : '…' + text.slice(text.length - most + 1);
}
