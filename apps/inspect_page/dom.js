// Elements, numbers as text, and what all sections know.

/** An element. Attributes named on... are listeners; children are nodes or text, never HTML. */
function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

const byId = (id) => document.getElementById(id);
const isNumber = (x) => typeof x === 'number' && Number.isFinite(x);
const NONE = '–';

const show = {
  number: (x, digits = 3) => (!isNumber(x) ? NONE : x !== 0 && (Math.abs(x) < 1e-3 || Math.abs(x) >= 1e6)
    ? d3.format(`.${digits - 1}e`)(x) : d3.format(`.${digits}~r`)(x)),
  count: (x) => (isNumber(x) ? d3.format(',')(x) : NONE),
  percent: (share) => (isNumber(share) ? d3.format('.1f')(100 * share) + ' %' : NONE),
  points: (top1) => (isNumber(top1) ? d3.format('.2f')(top1) + ' %' : NONE),
  db: (x) => (isNumber(x) ? d3.format('.1f')(x) + ' dB' : NONE),
  bytes(x) {
    if (!isNumber(x)) return NONE;
    const unit = [[1e9, 'GB'], [1e6, 'MB'], [1e3, 'kB']].find(([size]) => x >= size);
    return unit ? d3.format('.2f')(x / unit[0]) + ' ' + unit[1] : x + ' B';
  },
  large(x) {
    if (!isNumber(x)) return NONE;
    const unit = [[1e12, 'T'], [1e9, 'G'], [1e6, 'M'], [1e3, 'k']].find(([size]) => x >= size);
    return unit ? d3.format('.3~r')(x / unit[0]) + ' ' + unit[1] : String(x);
  },
  signed: (x, text) => (!isNumber(x) ? NONE : (x > 0 ? '+' : x < 0 ? '−' : '±') + text(Math.abs(x))),
  bits: (x) => (!isNumber(x) ? NONE : x === 1 ? '1 bit' : d3.format('.3~r')(x) + ' bits'),
};

/** A sentence about what is missing, and the command that adds it. */
function missing(sentence, command) {
  const words = command.split(' ').flatMap((word) => [h('span', {}, word), ' ']);
  return h('p', { class: 'missing' }, sentence + ' ', h('code', {}, words));
}

/** The inspection, what is chosen, and who wants to know. */
const page = {
  inspection: null,
  chosen: null,
  listeners: [],
  quantizer: (name) => page.inspection.quantizers.find((each) => each.name === name) || null,
  checkpoint: () => quoted(page.inspection.checkpoint.path),
  choose(name) {
    page.chosen = name;
    for (const listener of page.listeners) listener(page.quantizer(name));
  },
  /** Chooses, and goes to the section of the quantizer. */
  open(name) {
    page.choose(name);
    const heading = byId('quantizer-heading');
    heading.focus({ preventScroll: true });
    const calm = matchMedia('(prefers-reduced-motion: reduce)').matches;
    heading.scrollIntoView({ behavior: calm ? 'auto' : 'smooth', block: 'start' });
  },
};

/** As one word of a shell's command line. */
function quoted(path) {
  return /^[\w./:@%+,=-]+$/.test(path || '') ? path : `'${String(path || 'CKPT').replaceAll("'", "'\\''")}'`;
}

/** What is known of the accuracy: of the checkpoint, else of the pictures that inspect saw. */
function accuracyOf(inspection) {
  const { checkpoint, data } = inspection;
  if (isNumber(checkpoint.top1)) return { top1: checkpoint.top1, source: 'as the checkpoint says' };
  if (data && isNumber(data.top1)) return { top1: data.top1, source: `on ${show.count(data.pictures)} pictures` };
  return { top1: null, source: 'not in this checkpoint' };
}

/** The loss that a quantizer adds: that of the model, less that of the model in which this one alone is float. */
function addedLoss(quantizer) {
  const { data } = page.inspection, { sensitivity } = quantizer;
  if (!data || !sensitivity || !sensitivity.float) return null;
  return isNumber(data.loss) && isNumber(sensitivity.float.loss) ? data.loss - sensitivity.float.loss : null;
}
