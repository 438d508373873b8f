// The figures of one quantizer. `state`: quantizer, sample, step, now, learned, domain, limits (step.js).

/** How many values lie where: of the whole tensor, or of the sample where values have several steps. */
function binsOf({ quantizer, sample, domain }) {
  const { histogram } = quantizer;
  if (histogram && Array.isArray(histogram.counts) && !sample.several) {
    const width = (histogram.high - histogram.low) / histogram.counts.length, total = d3.sum(histogram.counts);
    return histogram.counts.map((count, i) => (
      { low: histogram.low + i * width, high: histogram.low + (i + 1) * width, share: count / total }));
  }
  const made = d3.histogram().domain(domain).thresholds(64)(sample.drawn);
  return made.map((bin) => ({ low: bin.x0, high: bin.x1, share: bin.length / sample.drawn.length }));
}

/** Edges between neighbouring codes, and the values of the codes, under a step. */
function stairsOf({ quantizer, sample, step }) {
  const [low, high] = quantizer.range;
  if (sample.binary) return { edges: [0], levels: [{ code: -1, y: -step }, { code: 1, y: step }], clip: [-1, 1] };
  const levels = d3.range(low, high + 1).map((code) => ({ code, y: sample.offset + code * step }));
  return { levels, edges: levels.slice(1).map((level) => level.y - step / 2), clip: [sample.offset + low * step, sample.offset + high * step] };
}

function staircaseFigure(state, setStep) {
  const top = 56, middle = 236, gap = 30, bottom = 416, left = 46;
  let x, share, value, layers, handle, right;

  function describe() {
    const { quantizer, now, step } = state;
    if (!now) return '';
    return `Histogram of the values of ${quantizer.name}, and the staircase of its quantizer with step ${show.number(step)}: ` +
      `${show.percent(now.below)} clipped below, ${show.percent(now.above)} above, ${show.db(now.snr_db)}.`;
  }
  function draw(svg, width) {
    right = width - 14;
    if (!state.sample) return bottom;
    const bins = binsOf(state), most = d3.max(bins, (bin) => bin.share) || 1, steep = most > 0.3;
    const { domain, limits, sample, quantizer } = state;
    x = d3.scaleLinear(domain, [left, right]);
    share = (steep ? d3.scalePow().exponent(0.5) : d3.scaleLinear()).domain([0, most]).range([middle, top]);
    const reach = quantizer.range.map((code) => sample.offset + code * Math.min(limits[1], sample.step * 1.6));
    value = d3.scaleLinear([Math.max(domain[0], reach[0] - sample.step / 2), Math.min(domain[1], reach[1] + sample.step / 2)], [bottom - 40, middle + gap]);
    const hatch = svg.append('defs').append('pattern').attr('id', 'hatch').attr('width', 6).attr('height', 6)
      .attr('patternUnits', 'userSpaceOnUse').attr('patternTransform', 'rotate(45)');
    hatch.append('rect').attr('class', 'hatch').attr('width', 1.6).attr('height', 6);
    const group = (name) => svg.append('g').attr('class', name);
    layers = { clips: group('clips'), bars: group('bars'), edges: group('edges') };
    layers.bars.selectAll('rect').data(bins).join('rect').attr('x', (bin) => x(bin.low)).attr('y', (bin) => share(bin.share))
      .attr('width', (bin) => Math.max(0.5, x(bin.high) - x(bin.low) - 0.5)).attr('height', (bin) => middle - share(bin.share));
    axes(svg, { x, y: share, left, bottom: middle, yFormat: d3.format('.0%'), yTicks: 4, xFormat: () => '' });
    axes(svg, { x, y: value, left, bottom: bottom - 40, yTicks: 4, xTicks: Math.max(3, Math.min(9, width / 90)), xTitle: 'value x' });
    svg.append('text').attr('class', 'axis-title').attr('x', 0).attr('y', 14)
      .text(steep ? 'share of values (root scale)' : 'share of values');
    svg.append('text').attr('class', 'axis-title').attr('x', left + 6).attr('y', middle + gap - 6).text('quantized value y');
    const ends = [Math.max(domain[0], value.domain()[0]), Math.min(domain[1], value.domain()[1])];
    svg.append('path').attr('class', 'identity').attr('d', `M${x(ends[0])},${value(ends[0])}L${x(ends[1])},${value(ends[1])}`);
    layers.stairs = svg.append('path').attr('class', 'stairs');
    handle = makeHandle(svg);
    layers.codes = group('codes');
    update();
    return bottom;
  }
  function makeHandle(svg) {
    const node = svg.append('g').attr('class', 'handle').attr('id', 'handle').attr('role', 'slider').attr('tabindex', 0)
      .attr('aria-label', 'Step a: drag, or press the arrow keys').attr('aria-orientation', 'horizontal');
    node.append('line').attr('y1', 40).attr('y2', bottom - 40);
    node.append('rect').attr('class', 'touch').attr('x', -22).attr('y', 18).attr('width', 44).attr('height', bottom - 58);
    node.append('rect').attr('class', 'grip').attr('x', -15).attr('y', 20).attr('width', 30).attr('height', 22).attr('rx', 11);
    node.append('path').attr('class', 'arrows').attr('d', 'M-4,27l-4,4l4,4M4,27l4,4l-4,4');
    const element = node.node();
    let grabbed = null;  // where in the handle the pointer holds it
    element.addEventListener('pointerdown', (event) => {
      event.preventDefault();
      element.focus();
      element.setPointerCapture(event.pointerId);
      grabbed = event.clientX - position();
    });
    element.addEventListener('pointermove', (event) => {
      if (grabbed !== null) setStep((x.invert(event.clientX - grabbed) - state.sample.offset) / topCode());
    });
    for (const end of ['pointerup', 'pointercancel']) element.addEventListener(end, () => { grabbed = null; });
    element.addEventListener('keydown', (event) => {
      const factor = { ArrowRight: 1.01, ArrowUp: 1.01, ArrowLeft: 1 / 1.01, ArrowDown: 1 / 1.01, PageUp: 1.1, PageDown: 1 / 1.1 }[event.key];
      const end = { Home: state.limits[0], End: state.limits[1] }[event.key];
      if (factor === undefined && end === undefined) return;
      event.preventDefault();
      setStep(end === undefined ? state.step * (event.shiftKey ? factor ** 5 : factor) : end);
    });
    return node;
  }
  const topCode = () => (state.sample.binary ? 1 : state.quantizer.range[1]);
  const position = () => x(state.sample.offset + topCode() * state.step);

  function update() {
    if (!handle || !state.now) return;
    const { levels, edges, clip } = stairsOf(state), { domain, now } = state;
    const spacing = levels.length > 1 ? Math.abs(x(levels[1].y) - x(levels[0].y)) : 99;
    const inside = (at) => at >= domain[0] && at <= domain[1];
    layers.bars.selectAll('rect').attr('class', (bin) => {
      const at = (bin.low + bin.high) / 2;
      return at < clip[0] || at > clip[1] ? 'clipped' : d3.bisect(edges, at) % 2 ? 'odd' : 'even';
    });
    layers.edges.selectAll('line').data(spacing >= 4 ? edges.filter(inside) : []).join('line')
      .attr('x1', x).attr('x2', x).attr('y1', top - 8).attr('y2', bottom - 40);
    layers.codes.selectAll('text').data(spacing >= 20 ? levels.filter((level) => inside(level.y)) : []).join('text')
      .attr('x', (level) => x(level.y)).attr('y', top - 2).text((level) => level.code);
    const zones = [[domain[0], Math.max(domain[0], clip[0])], [Math.min(domain[1], clip[1]), domain[1]]];
    layers.clips.selectAll('rect').data(zones).join('rect').attr('x', (zone) => x(zone[0])).attr('y', top)
      .attr('width', (zone) => Math.max(0, x(zone[1]) - x(zone[0]))).attr('height', bottom - 40 - top).attr('fill', 'url(#hatch)');
    const clamp = (at) => Math.min(domain[1], Math.max(domain[0], at));
    layers.stairs.attr('d', levels.map(({ y }, i) => {
      const from = i === 0 ? domain[0] : clamp(edges[i - 1]), to = i === levels.length - 1 ? domain[1] : clamp(edges[i]);
      const height = value(Math.min(value.domain()[1], Math.max(value.domain()[0], y)));
      return `${i ? 'L' : 'M'}${x(from)},${height}L${x(to)},${height}`;
    }).join(''));
    handle.attr('transform', `translate(${position()},0)`)
      .attr('aria-valuemin', state.limits[0]).attr('aria-valuemax', state.limits[1]).attr('aria-valuenow', state.step)
      .attr('aria-valuetext', `${show.number(state.step)}: ${show.percent(now.below + now.above)} clipped, ${show.db(now.snr_db)}`);
  }
  const node = figure({ id: 'staircase', title: 'Values and staircase', parts: true, className: 'wide', draw, describe,
    note: 'Drag the handle to change the step, or press the arrow keys on it. Dashed: edges between two codes. Hatched: values there are clipped.' });
  node.update = update;
  return node;
}

function codesFigure(state) {
  function draw(svg, width) {
    const left = 46, right = width - 10, top = 42, bottom = 198;
    if (!state.now) return bottom + 40;
    const [low, high] = state.quantizer.range, codes = d3.range(low, high + 1);
    const x = d3.scaleBand(codes, [left, right]).padding(codes.length > 40 ? 0.05 : 0.2);
    const most = Math.max(d3.max(state.now.occupancy), d3.max(state.learned.occupancy)) || 1;
    const y = d3.scaleLinear([0, most], [bottom, top]), every = Math.ceil(codes.length / Math.max(2, width / 40));
    const bar = (shares, name) => svg.append('g').attr('class', name).selectAll('rect').data(shares).join('rect')
      .attr('x', (_, i) => x(codes[i])).attr('width', x.bandwidth()).attr('y', y).attr('height', (each) => bottom - y(each)).attr('data-share', (each) => each);
    bar(state.now.occupancy, 'occupancy');
    bar(state.learned.occupancy, 'outline');
    axes(svg, { x: x.copy(), y, left, bottom, yFormat: d3.format('.0%'), yTicks: 4, xTitle: 'code q', xFormat: (code) => ((code - low) % every ? '' : code) });
    svg.append('text').attr('class', 'axis-title').attr('x', 0).attr('y', 14).text('share of the sample; outline: learned step');
    if (x.bandwidth() > 44) {
      svg.append('g').selectAll('text').data(state.now.occupancy).join('text').attr('class', 'tick').attr('text-anchor', 'middle')
        .attr('x', (_, i) => x(codes[i]) + x.bandwidth() / 2).attr('y', (each, i) => y(Math.max(each, state.learned.occupancy[i])) - 5).text(show.percent);
    }
    return bottom + 40;
  }
  return figure({ id: 'occupancy', title: 'Codes in use', draw,
    describe: () => (state.now ? state.now.occupancy.length > 16 ? `${state.now.occupancy.filter((each) => each > 0).length} of ${state.now.occupancy.length} codes are in use.`
      : state.now.occupancy.map((each, i) => `${state.quantizer.range[0] + i}: ${show.percent(each)}`).join(', ') : '') });
}

/** Signal to noise and gradient over all steps that the slider can give. */
function overStepFigure(state) {
  const left = 50, middle = 132, bottom = 198, top = 36;
  let x, ratio, slope, marks;
  const gradientOf = (found) => (found.scaled === null ? found.gradient : found.scaled);
  function draw(svg, width) {
    if (!state.sample) return bottom + 40;
    const right = width - 12, steps = stepsBetween(state.limits, 96), found = steps.map((step) => state.sample.at(step));
    x = d3.scaleLog(state.limits, [left, right]);
    const every = Math.ceil(x.ticks(20).filter((step) => /[125]/.test(step.toExponential()[0])).length / (width / 70));
    const round = x.ticks(20).filter((step) => /[125]/.test(step.toExponential()[0])).filter((_, i) => i % every === 0);
    ratio = d3.scaleLinear(padded(found.map((each) => each.snr_db)), [middle - 14, top]);
    slope = d3.scaleLinear(padded([0, ...found.map(gradientOf)]), [bottom, middle]);
    axes(svg, { x, y: ratio, left, bottom: middle - 14, yTicks: 4, xFormat: () => '', xValues: round });
    axes(svg, { x, y: slope, left, bottom, yTicks: 3, xValues: round, xFormat: d3.format('~r'), xTitle: 'step a', yFormat: d3.format('~g') });
    svg.append('text').attr('class', 'axis-title').attr('x', 0).attr('y', 14).text('signal to noise in dB; below: gradient × g');
    svg.append('path').attr('class', 'identity').attr('d', `M${left},${slope(0)}H${right}`);
    const line = (scale, of) => d3.line().defined((i) => isNumber(of(found[i]))).x((i) => x(steps[i])).y((i) => scale(of(found[i])))(d3.range(steps.length));
    svg.append('path').attr('class', 'series series-0').attr('d', line(ratio, (each) => each.snr_db));
    svg.append('path').attr('class', 'series series-1').attr('d', line(slope, gradientOf));
    svg.append('path').attr('class', 'learned').attr('d', `M${x(state.sample.step)},${top - 6}V${bottom}`);
    marks = svg.append('g').attr('class', 'now');
    marks.append('path').attr('d', `M0,${top - 6}V${bottom}`);
    marks.append('circle').attr('class', 'ratio').attr('r', 4);
    marks.append('circle').attr('class', 'slope').attr('r', 4);
    update();
    return bottom + 40;
  }
  function update() {
    if (!marks || !state.now) return;
    const gradient = gradientOf(state.now);
    marks.attr('transform', `translate(${x(state.step)},0)`);
    marks.select('.ratio').attr('cy', ratio(state.now.snr_db || 0)).attr('visibility', state.now.snr_db === null ? 'hidden' : null);
    marks.select('.slope').attr('cy', slope(gradient || 0)).attr('visibility', gradient === null ? 'hidden' : null);
  }
  const node = figure({ id: 'over-step', title: 'If the step were another', draw,
    describe: () => (state.now ? `At the step ${show.number(state.step)}: ${show.db(state.now.snr_db)}, gradient ${show.number(gradientOf(state.now))}.` : '') });
  node.update = update;
  return node;
}
