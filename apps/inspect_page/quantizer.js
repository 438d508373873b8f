// What a quantizer does to values, and its gradients: the equations of docs/method.md, in the order in which
// the program computes them.

const LEAST_STEP = 1e-4;

/** To the nearest integer; of two that are equally near, the even one. */
function roundHalfEven(v) {
  const below = Math.floor(v), part = v - below;
  if (part !== 0.5) return part < 0.5 ? below : below + 1;
  return below % 2 === 0 ? below : below + 1;
}

/** The code of v = (x - offset) / step. */
function codeOf(v, range) {
  return roundHalfEven(v < range[0] ? range[0] : (v > range[1] ? range[1] : v));
}

/**
 * The values x under steps[i] (one for each value), offset and range = [Qn, Qp]. `binary`: y = step * sign(x).
 *   occupancy  share of each code Qn, Qn + 1, ..., Qp
 *   below, above   shares of values outside the range; of one bit, of values that pass no gradient (|x| > 1)
 *   snr_db     10 log10(sum x^2 / sum (x - y)^2)
 *   mse        mean (x - y)^2
 *   entropy    of the codes, in bits
 *   gradient   dL/da = sum dL/dy (q - in v) for L = sum (y - x)^2 / 2; null of one bit: its step is not learned
 *   offsetGradient   dL/do = sum dL/dy (1 - in)
 */
function quantize(x, { steps, offset, range, binary }) {
  const counts = new Array(range[1] - range[0] + 1).fill(0);
  let below = 0, above = 0, signal = 0, noise = 0, gradient = 0, offsetGradient = 0;
  for (let i = 0; i < x.length; ++i) {
    const step = Math.max(steps[i], LEAST_STEP);
    const v = binary ? x[i] : (x[i] - offset) / step;
    const code = binary ? Math.sign(x[i]) : codeOf(v, range);
    const inside = range[0] <= v && v <= range[1];
    const difference = code * step + offset - x[i];
    counts[code - range[0]] += 1;
    below += v < range[0];
    above += v > range[1];
    signal += x[i] * x[i];
    noise += difference * difference;
    gradient += difference * (inside ? code - v : code);
    offsetGradient += inside ? 0 : difference;
  }
  const occupancy = counts.map((count) => count / x.length);
  return {
    occupancy,
    below: below / x.length,
    above: above / x.length,
    snr_db: noise === 0 ? null : 10 * Math.log10(signal / noise),
    mse: noise / x.length,
    entropy: entropyOf(occupancy),
    gradient: binary ? null : gradient,
    offsetGradient: binary ? null : offsetGradient,
  };
}

/** In bits. */
function entropyOf(shares) {
  return shares.reduce((sum, share) => (share > 0 ? sum - share * Math.log2(share) : sum), 0);
}

/**
 * The sample of a quantizer of the inspection, ready to be quantized again with another step. Where it has
 * several steps (one for each head or row), `step` is their mean, and all are changed by the same factor.
 *   step      the learned step
 *   values    x; `drawn`: x as it would be if all values had the step `step`
 *   at(step)  what `quantize` says, and `scaled`: the gradient times the gradient scale of the sample
 */
function sampleOf(quantizer) {
  const values = quantizer.sample.filter(Number.isFinite);
  const learned = quantizer.steps.filter(Number.isFinite);
  const step = learned.reduce((sum, each) => sum + each, 0) / learned.length;
  const groups = quantizer.sample_group;
  const several = learned.length > 1 && Array.isArray(groups) && groups.length === values.length;
  const relative = values.map((_, i) => (several ? learned[groups[i]] / step : 1));
  const offset = Number.isFinite(quantizer.offsets[0]) ? quantizer.offsets[0] : 0;
  const binary = quantizer.bits === 1;
  return {
    step,
    offset,
    binary,
    several,
    values,
    drawn: values.map((x, i) => x / relative[i]),
    at(changed) {
      const steps = relative.map((factor) => factor * changed);
      const found = quantize(values, { steps, offset, range: quantizer.range, binary });
      const scale = quantizer.sample_grad_scale;
      found.scaled = found.gradient === null || !Number.isFinite(scale) ? null : found.gradient * scale;
      return found;
    },
  };
}

/** Whether the page can quantize its sample again: its equations are those of LSQ and of one bit. */
function canRequantize(quantizer) {
  return Array.isArray(quantizer.sample) && quantizer.sample.some(Number.isFinite) &&
    Array.isArray(quantizer.range) && quantizer.steps.some(Number.isFinite) &&
    /^(lsq|binary)/.test(quantizer.quantizer);
}
