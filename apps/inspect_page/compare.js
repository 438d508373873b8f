// The difference of two checkpoints.

function compareSection() {
  const { inspection } = page, { other } = inspection;
  if (!other) {
    return [missing('Two checkpoints are compared by', `vvtq inspect ${page.checkpoint()} --compare OTHER --html page.html`)];
  }
  const of = new Map(other.quantizers.map((each) => [each.name, each]));
  const pairs = inspection.quantizers.filter((each) => of.has(each.name)).map((each) => ({ name: each.name, here: each, there: of.get(each.name) }));
  const lone = inspection.quantizers.length + other.quantizers.length - 2 * pairs.length;
  const difference = (value) => (pair) => {
    const here = value(pair.here), there = value(pair.there);
    return isNumber(here) && isNumber(there) ? there - here : null;
  };
  const snr = difference((q) => q.snr_db), step = (q) => (q.steps.length ? d3.mean(q.steps) : null);
  const ratio = (pair) => (step(pair.here) && step(pair.there) ? step(pair.there) / step(pair.here) : null);
  const clipped = difference((q) => (q.clipped ? q.clipped.below + q.clipped.above : null));
  const number = (key, label, value, text) => ({ key, label, numeric: true, value, text: (pair) => text(value(pair)) });
  const signed = (text) => (x) => show.signed(x, text);

  const facts = [['Top-1 accuracy', (each) => accuracyOf(each).top1, show.points], ['Size of the weights', (each) => each.bytes && each.bytes.packed, show.bytes],
    ['Average bits of weights', (each) => each.average_bits && each.average_bits.weight, show.number],
    ['Average bits of activations', (each) => each.average_bits && each.average_bits.activation, show.number],
    ['Bit operations', (each) => each.bit_operations, show.large]];
  const rows = facts.map(([label, value, text]) => ({ label, here: value(inspection), there: value(other), text }));
  const change = (row) => (isNumber(row.here) && isNumber(row.there) ? row.there - row.here : null);
  const summary = table({ id: 'comparison', caption: 'This checkpoint and the other', sorted: 'figure', descending: false, rows,
    note: `This: ${inspection.checkpoint.path}. The other: ${other.checkpoint.path}.`, columns: [
      { key: 'figure', label: 'Figure', value: (row) => row.label, text: (row) => row.label },
      { key: 'this', label: 'This', numeric: true, value: (row) => row.here, text: (row) => row.text(row.here) },
      { key: 'other', label: 'Other', numeric: true, value: (row) => row.there, text: (row) => row.text(row.there) },
      { key: 'difference', label: 'Other − this', numeric: true, value: change, text: (row) => show.signed(change(row), row.text) }] });

  const changed = pairs.filter((pair) => isNumber(snr(pair))).sort((a, b) => Math.abs(snr(b)) - Math.abs(snr(a))).slice(0, 20);
  function draw(svg, width) {
    if (changed.length === 0) {
      svg.append('text').attr('class', 'tick').attr('y', 20).text('No quantizer has a signal-to-noise ratio in both.');
      return 40;
    }
    const left = Math.min(220, width * 0.42), right = width - 14, top = 34, height = 24, bottom = top + changed.length * height;
    const x = d3.scaleLinear(padded(changed.flatMap((pair) => [pair.here.snr_db, pair.there.snr_db])), [left, right]);
    svg.append('circle').attr('class', 'here').attr('r', 5).attr('cx', left + 6).attr('cy', 12);
    svg.append('text').attr('class', 'legend').attr('x', left + 16).attr('y', 16).text('this');
    svg.append('path').attr('class', 'there').attr('d', d3.symbol().type(d3.symbolTriangle).size(60)()).attr('transform', `translate(${left + 66},13)`);
    svg.append('text').attr('class', 'legend').attr('x', left + 76).attr('y', 16).text('other');
    changed.forEach((pair, i) => {
      const y = top + (i + 0.5) * height;
      svg.append('path').attr('class', 'rule').attr('d', `M${left},${y}H${right}`);
      svg.append('text').attr('class', 'tick').attr('x', left - 8).attr('y', y + 4).attr('text-anchor', 'end').text(shortened(pair.name, left - 8));
      svg.append('path').attr('class', 'bond').attr('d', `M${x(pair.here.snr_db)},${y}H${x(pair.there.snr_db)}`);
      svg.append('circle').attr('class', 'here').attr('r', 5).attr('cx', x(pair.here.snr_db)).attr('cy', y);
      svg.append('path').attr('class', 'there').attr('d', d3.symbol().type(d3.symbolTriangle).size(60)()).attr('transform', `translate(${x(pair.there.snr_db)},${y + 1})`);
    });
    axes(svg, { x, y: null, bottom, xTitle: 'signal to noise in dB', xTicks: Math.min(8, (width - left) / 60) });
    return bottom + 42;
  }
  const chart = figure({ id: 'changes', title: 'Where signal to noise changed most', className: 'wide', draw,
    describe: () => changed.slice(0, 5).map((pair) => `${pair.name}: ${show.signed(snr(pair), show.db)}`).join('; ') });
  const all = table({ id: 'differences', caption: 'All quantizers, other − this', sorted: 'snr_db', descending: false, rows: pairs,
    note: lone ? `${lone} quantizers are in one of the two only.` : null, columns: [
      { key: 'name', label: 'Quantizer', value: (pair) => pair.name, node: (pair) => openButton(pair.here) },
      number('bits', 'Bits', difference((q) => q.bits), signed(show.number)), number('step_ratio', 'Step, other / this', ratio, show.number),
      number('snr_db', 'Signal to noise', snr, signed(show.db)), number('clipped', 'Clipped', clipped, signed(show.percent)),
      number('entropy', 'Entropy', difference((q) => q.entropy), signed(show.bits)),
      number('variance_in_bins', 'Variance in bins', difference((q) => q.variance_in_bins), signed(show.number)),
      number('oscillating', 'Oscillating', difference((q) => q.oscillation && q.oscillation.share), signed(show.percent))] });
  return [summary, chart, all];
}
