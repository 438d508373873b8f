// What the logs of one or several runs say, side by side.

function trainingSection() {
  const { training } = page.inspection, runs = training ? training.runs.filter((run) => run.epochs.length > 0) : [];
  if (runs.length === 0) {
    return [missing('Curves over training come from the logs of one or several runs:',
      `vvtq inspect ${page.checkpoint()} --metrics RUN/metrics.jsonl --html page.html`)];
  }
  const nameOf = (run) => `${run.name} (${run.reg ? 'with' : 'without'} --reg)`;
  const mean = (x) => (Array.isArray(x) ? d3.mean(x) : x);
  const lines = (of) => runs.map((run) => ({ name: nameOf(run), points: run.epochs.map((epoch) => [epoch.epoch, of(epoch)]) }));
  const has = (of) => runs.some((run) => run.epochs.some((epoch) => isNumber(of(epoch))));
  const last = (of) => runs.map((run) => `${nameOf(run)}: ${show.number(of(run.epochs[run.epochs.length - 1]))} at the end`).join('; ');
  const chart = (id, title, of, yTitle, yFormat) => has(of) && figure({ id, title, describe: () => last(of),
    draw: (svg, width) => curves(svg, width, { lines: lines(of), xTitle: 'epoch', yTitle, yFormat }) });
  const oscillation = (key) => (epoch) => (epoch.osc ? epoch.osc[key] : null);
  const percent = d3.format('.1%');
  const whole = [chart('top1', 'Top-1 accuracy', (epoch) => epoch.val_top1, '%'),
    chart('loss', 'Training loss', (epoch) => epoch.train_loss, 'loss'),
    chart('oscillating', 'Weights that oscillate', oscillation('share'), 'share of weights', percent),
    chart('lambda', 'Strength of the regularizer', (epoch) => epoch.lambda, 'lambda')];

  let shown = null;  // the quantizer of the lower charts: the chosen one, if the logs have it
  const tracked = (name) => runs.some((run) => run.epochs.some((epoch) => epoch.quantizers && name in epoch.quantizers));
  const of = (key) => (epoch) => {
    const found = epoch.quantizers && epoch.quantizers[shown];
    return found ? mean(found[key]) : null;
  };
  const one = (id, title, key, yTitle, yFormat) => figure({ id, title, describe: () => `${shown}: ${last(of(key))}`,
    draw(svg, width) {
      if (has(of(key))) return curves(svg, width, { lines: lines(of(key)), xTitle: 'epoch', yTitle, yFormat });
      svg.append('text').attr('class', 'tick').attr('y', 20).text('The logs do not have it.');
      return 40;
    } });
  const names = page.inspection.quantizers.filter((q) => isNumber(q.severity)).sort((a, b) => b.severity - a.severity)
    .concat(page.inspection.quantizers).map((q) => q.name).filter(tracked);
  const heading = h('h3', {}), hint = h('p', { class: 'note', 'aria-live': 'polite' });
  const charts = [one('step-curve', 'Step', 'step', 'step a'), one('osc-curve', 'Weights that oscillate', 'osc', 'share of weights', percent),
    ...runs.map((run, i) => occupancyCurve(run, nameOf(run), i, () => shown))];
  page.listeners.push((chosen) => {
    if (tracked(chosen.name)) shown = chosen.name;
    else if (shown === null) shown = names[0];
    heading.textContent = shown;
    hint.textContent = shown === chosen.name ? '' : `The logs do not have ${chosen.name}.`;
    for (const each of charts) each.redraw();
  });
  const summary = table({ id: 'runs', caption: 'Runs', sorted: has((epoch) => epoch.val_top1) ? 'top1' : 'run', rows: runs, columns: [
    { key: 'run', label: 'Run', value: nameOf, text: nameOf },
    ...[['top1', 'Top-1 at the end', (epoch) => epoch.val_top1, show.points], ['loss', 'Training loss', (epoch) => epoch.train_loss, show.number],
      ['oscillating', 'Oscillating', oscillation('share'), show.percent], ['mean_oscillation', 'Mean frequency', oscillation('mean'), show.number]]
      .filter(([, , value]) => has(value)).map(([key, label, value, text]) => ({ key, label, numeric: true,
        value: (run) => value(run.epochs[run.epochs.length - 1]), text: (run) => text(value(run.epochs[run.epochs.length - 1])) }))] });
  return [summary, h('div', { class: 'panels' }, whole.filter(Boolean)),
    names.length > 0 ? [heading, hint, h('div', { class: 'panels' }, charts)]
      : missing('Steps, codes and oscillation of each quantizer are logged with', 'vvtq train --track-osc')];
}

/** How the share of each code changes over a run, as areas one above the other. */
function occupancyCurve(run, name, i, shown) {
  const points = () => run.epochs.map((epoch) => [epoch.epoch, epoch.quantizers && epoch.quantizers[shown()]])
    .filter(([, found]) => found && Array.isArray(found.occupancy)).map(([epoch, found]) => [epoch, found.occupancy]);
  return figure({ id: `codes-curve-${i}`, title: 'Codes in use', note: name,
    describe() {
      const all = points();
      return all.length ? `${shown()}, ${name}, at the end: ${all[all.length - 1][1].map(show.percent).join(', ')}` : '';
    },
    draw(svg, width) {
      const all = points(), left = 46, right = width - 34, top = 12, bottom = 178;
      if (all.length === 0) {
        svg.append('text').attr('class', 'tick').attr('y', 20).text('The log does not have it, or has more than 16 codes.');
        return 40;
      }
      const quantizer = page.quantizer(shown()), count = all[0][1].length, first = quantizer && quantizer.range ? quantizer.range[0] : 0;
      const x = d3.scaleLinear(padded(all.map((point) => point[0]), 0), [left, right]), y = d3.scaleLinear([0, 1], [bottom, top]);
      const sums = all.map(([epoch, shares]) => [epoch, [0, ...shares.map((_, k) => d3.sum(shares.slice(0, k + 1)))]]);
      for (let k = 0; k < count; ++k) {
        const colour = d3.interpolateViridis(count > 1 ? 0.1 + 0.85 * k / (count - 1) : 0.5);
        const area = d3.area().x((point) => x(point[0])).y0((point) => y(point[1][k])).y1((point) => y(point[1][k + 1]));
        svg.append('path').attr('class', 'area').attr('d', area(sums)).attr('fill', colour);
        const end = sums[sums.length - 1][1], room = y(end[k]) - y(end[k + 1]);
        if (room > 11) svg.append('text').attr('class', 'tick').attr('x', right + 6).attr('y', y((end[k] + end[k + 1]) / 2) + 4).text(first + k);
      }
      axes(svg, { x, y, left, bottom, xTitle: 'epoch', yFormat: d3.format('.0%'), xFormat: String, xValues: x.ticks(Math.min(8, width / 70)).filter(Number.isInteger) });
      return bottom + 42;
    } });
}
