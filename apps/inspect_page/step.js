// One quantizer: its values over the staircase. Dragging the step quantizes the sample again.

/** What the table of figures says, in its order. */
const MEASURES = [
  { key: 'step', label: 'Step a', text: show.number },
  { key: 'below', label: 'Clipped below', text: show.percent },
  { key: 'above', label: 'Clipped above', text: show.percent },
  { key: 'snr_db', label: 'Signal to noise', text: show.db },
  { key: 'mse', label: 'Mean squared error', text: show.number },
  { key: 'entropy', label: 'Entropy of the codes', text: show.bits },
  { key: 'gradient', label: 'Gradient ∂L/∂a', text: (x) => show.signed(x, show.number) },
  { key: 'scaled', label: 'Gradient × g', text: (x) => show.signed(x, show.number) },
  { key: 'offsetGradient', label: 'Gradient ∂L/∂o', text: (x) => show.signed(x, show.number) },
];

function quantizerSection() {
  const { quantizers } = page.inspection;
  const state = { quantizer: null, sample: null, step: 1, now: null, learned: null };
  const select = h('select', { id: 'chosen', onchange: () => page.choose(select.value) },
    quantizers.map((q) => h('option', { value: q.name }, q.name)));
  const turn = (by) => () => {
    const at = quantizers.findIndex((q) => q.name === page.chosen);
    page.choose(quantizers[(at + by + quantizers.length) % quantizers.length].name);
  };
  const number = h('input', { id: 'step', type: 'number', step: 'any', min: LEAST_STEP, onchange: () => setStep(Number(number.value)) });
  const reset = h('button', { type: 'button', id: 'reset', onclick: () => setStep(state.sample.step) }, 'Learned step');
  const best = h('button', { type: 'button', id: 'best', onclick: () => setStep(leastError()) }, 'Least error');
  const facts = h('p', { class: 'facts' }), verdict = h('p', { class: 'verdict', 'aria-live': 'polite' });
  const body = h('div', { class: 'panels' }), empty = h('div', {});
  const staircase = staircaseFigure(state, (step) => setStep(step));
  const codes = codesFigure(state), over = overStepFigure(state);
  const values = new Map();
  const cells = MEASURES.map(({ key, label }) => {
    const row = ['whole', 'learned', 'now'].map((column) => {
      const out = h(column === 'now' ? 'output' : 'span', { 'data-measure': key, 'data-column': column });
      values.set(key + column, out);
      return h('td', { class: 'numeric' }, out);
    });
    return h('tr', {}, h('th', { scope: 'row' }, label), row);
  });
  const figuresTable = h('div', { class: 'scroller', tabindex: '0', role: 'region', 'aria-label': 'Figures of the quantizer, may be scrolled' },
    h('table', { id: 'measures' }, h('caption', { class: 'hidden' }, 'Figures of the quantizer'),
      h('thead', {}, h('tr', {}, ['', 'Whole tensor', 'Sample', 'Sample now'].map(
        (title, i) => h('th', { scope: 'col', class: i ? 'numeric' : null }, title)))), h('tbody', {}, cells)));
  const measures = h('div', { class: 'table tall' }, h('div', { class: 'figcaption' }, h('span', { class: 'title' }, 'Figures'),
    saveButton('CSV', 'Figures of the quantizer', saveMeasures)),
    h('p', { class: 'note' }, 'The sample has up to 512 of the values; “now” is with the step of the handle. L is half the sum of (y − x)² over the sample.'), figuresTable, verdict);

  function saveMeasures() {
    const columns = [{ key: 'measure', value: (m) => m.key }, ...['whole', 'learned', 'now'].map((column) => (
      { key: column, value: (m) => valueOf(m.key, column) }))];
    download(fileName(state.quantizer.name, 'csv'), 'text/csv', csvText(columns, MEASURES));
  }
  function valueOf(key, column) {
    const { quantizer, sample } = state;
    if (column === 'whole') {
      if (key === 'step') return quantizer.steps.length ? d3.mean(quantizer.steps) : null;
      if (key === 'below' || key === 'above') return quantizer.clipped ? quantizer.clipped[key] : null;
      return key in quantizer ? quantizer[key] : null;
    }
    if (!sample) return null;
    if (key === 'step') return column === 'now' ? state.step : sample.step;
    return state[column][key];
  }
  function fill() {
    for (const { key, text } of MEASURES) {
      for (const column of ['whole', 'learned', 'now']) {
        const out = values.get(key + column), value = valueOf(key, column);
        out.textContent = text(value);
        out.dataset.value = isNumber(value) ? String(value) : '';
      }
    }
    const { scaled, gradient } = state.now;
    verdict.textContent = gradient === null
      ? 'One bit: the scale is the mean of |x| and is not learned, so that no gradient reaches it.'
      : gradient === 0 ? 'The gradient is zero: the step stays.'
        : `Gradient descent on this squared error makes the step ${(scaled === null ? gradient : scaled) > 0 ? 'smaller' : 'larger'}.`;
  }
  function setStep(step) {
    if (!state.sample || !isNumber(step)) return;
    state.step = Math.min(state.limits[1], Math.max(state.limits[0], step));
    state.now = state.sample.at(state.step);
    number.value = String(Number(state.step.toPrecision(6)));
    fill();
    staircase.update();
    codes.redraw();
    over.update();
  }
  function leastError() {
    const steps = stepsBetween(state.limits, 400);
    return steps[d3.scan(steps.map((step) => state.sample.at(step).mse))];
  }
  function choose(quantizer) {
    select.value = quantizer.name;
    state.quantizer = quantizer;
    const good = canRequantize(quantizer);
    state.sample = good ? sampleOf(quantizer) : null;
    body.hidden = controls.hidden = !good;
    empty.replaceChildren();
    describe(quantizer);
    if (!good) {
      const statement = quantizer.sample ? 'The page cannot quantize again with this kind of quantizer; its figures are:' : 'It has no figures without pictures:';
      empty.append(missing(statement, quantizer.sample ? `${show.db(quantizer.snr_db)}, ${show.bits(quantizer.entropy)}`
        : `vvtq inspect ${page.checkpoint()} --data PATH --html page.html`));
      return;
    }
    state.learned = state.sample.at(state.sample.step);
    state.domain = domainOf(quantizer, state.sample);
    const top = quantizer.bits === 1 ? 1 : quantizer.range[1];
    state.limits = [Math.max(LEAST_STEP, state.sample.step / 20), Math.max((state.domain[1] - state.sample.offset) / top, state.sample.step)];
    state.step = state.sample.step;
    state.now = state.learned;
    for (const chart of [staircase, over]) chart.redraw();
    setStep(state.sample.step);
  }
  function describe(q) {
    const range = q.range ? `codes ${q.range[0]} to ${q.range[1]}` : '';
    const groups = q.steps.length > 1 ? `${q.steps.length} steps; the figure shows all values as if they had the mean step. ` : '';
    const parts = [`${q.quantizer}, ${show.bits(q.bits)}, ${range}`, q.shape ? `shape ${q.shape.join(' × ')}` : null,
      q.offsets && q.offsets.length ? `offset o = ${show.number(q.offsets[0])}` : null,
      isNumber(q.sample_grad_scale) ? `g = ${show.number(q.sample_grad_scale)} for the sample` : null];
    facts.textContent = `${parts.filter(Boolean).join('; ')}. ${groups}${q.reason ? q.reason + '.' : ''}`.replace(/\.\.$/, '.');
  }

  const controls = h('div', { class: 'controls' }, h('label', { for: 'step' }, 'Step ', number), reset, best);
  const chooser = h('div', { class: 'controls' }, h('label', { for: 'chosen' }, 'Quantizer ', select),
    h('button', { type: 'button', id: 'before', onclick: turn(-1) }, 'Previous'),
    h('button', { type: 'button', id: 'next', onclick: turn(1) }, 'Next'));
  body.append(staircase, measures, codes, over);
  page.listeners.push(choose);
  return [chooser, facts, empty, controls, body];
}

/** `count` steps, evenly spaced as factors. */
function stepsBetween([low, high], count) {
  return d3.range(count).map((i) => low * (high / low) ** (i / (count - 1)));
}

/** What the x axis shows: all values, and the staircase with room to make the step larger. */
function domainOf(quantizer, sample) {
  const [low, high] = quantizer.range, { step, offset } = sample, extent = d3.extent(sample.drawn);
  const { histogram } = quantizer, whole = histogram && !sample.several ? [histogram.low, histogram.high] : extent;
  return [Math.min(whole[0], extent[0], offset + step * (low - 0.75) * (low < 0 ? 1.15 : 1)),
    Math.max(whole[1], extent[1], offset + step * Math.max(high, 1) * 1.6)];
}
