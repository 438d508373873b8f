// Tables that are sorted by their headers and saved as CSV.

/**
 * columns: {key (of the CSV), label, value(row), text(row) or node(row), numeric}. The first one heads its
 * row. `sorted` is a key; numbers start with the largest, names with the first.
 */
function table({ id, caption, columns, rows, sorted, descending = true, rowName, note = null }) {
  const state = { key: sorted, descending, rows };
  const body = h('tbody');
  const headers = columns.map((column) => {
    const button = h('button', { type: 'button', onclick: () => sortBy(column) }, column.label,
      h('span', { class: 'arrow', 'aria-hidden': 'true' }));
    return h('th', { scope: 'col', class: column.numeric ? 'numeric' : null, title: column.title }, button);
  });

  function sortBy(column) {
    state.descending = state.key === column.key ? !state.descending : Boolean(column.numeric);
    state.key = column.key;
    fill();
  }
  function ordered() {
    const { value } = columns.find((column) => column.key === state.key);
    const known = state.rows.filter((row) => value(row) !== null && value(row) !== undefined);
    const unknown = state.rows.filter((row) => value(row) === null || value(row) === undefined);
    known.sort((a, b) => (state.descending ? d3.descending : d3.ascending)(value(a), value(b)));
    return known.concat(unknown);
  }
  function cell(column, row, i) {
    const content = column.node ? column.node(row) : column.text(row);
    const attributes = { class: column.numeric ? 'numeric' : null };
    return i === 0 ? h('th', { scope: 'row', ...attributes }, content) : h('td', attributes, content);
  }
  function fill() {
    columns.forEach((column, i) => {
      if (column.key === state.key) headers[i].setAttribute('aria-sort', state.descending ? 'descending' : 'ascending');
      else headers[i].removeAttribute('aria-sort');
    });
    body.replaceChildren(...ordered().map((row) => h('tr',
      { 'data-name': rowName && rowName(row), class: rowName && rowName(row) === page.chosen && 'chosen' },
      columns.map((column, i) => cell(column, row, i)))));
  }

  const save = saveButton('CSV', caption, () => download(fileName(id, 'csv'), 'text/csv', csvText(columns, ordered())));
  const element = h('table', { id }, h('caption', { class: 'hidden' }, caption), h('thead', {}, h('tr', {}, headers)), body);
  const node = h('div', { class: 'table' },
    h('div', { class: 'figcaption' }, h('span', { class: 'title' }, caption), save),
    note ? h('p', { class: 'note' }, note) : null,
    h('div', { class: 'scroller', tabindex: '0', role: 'region', 'aria-label': `${caption}, may be scrolled` }, element));
  node.filter = (changed) => {
    state.rows = changed;
    fill();
  };
  fill();
  return node;
}

const ROLES = { weight: 'weight', activation: 'activation', probability: 'attention', activated: 'after GELU' };

/** The button that names a quantizer and opens it. */
function openButton(quantizer) {
  return h('button', { type: 'button', class: 'name', onclick: () => page.open(quantizer.name) }, quantizer.name);
}

/** All quantizers, with a choice of role and a search by name. */
function quantizerTable() {
  const { quantizers } = page.inspection;
  const clipped = (q) => (q.clipped ? q.clipped.below + q.clipped.above : null);
  const of = (part, key) => (q) => (q[part] && isNumber(q[part][key]) ? q[part][key] : null);
  const number = (key, label, value, text, title) =>
    ({ key, label, value, numeric: true, title, text: (q) => text(value(q)) });
  const columns = [
    { key: 'name', label: 'Quantizer', value: (q) => q.name, node: openButton },
    { key: 'role', label: 'Of', value: (q) => q.role, text: (q) => ROLES[q.role] || q.role },
    number('bits', 'Bits', (q) => q.bits, (x) => show.number(x)),
    number('step', 'Step', (q) => (q.steps.length ? d3.mean(q.steps) : null), show.number, 'Of several steps their mean'),
    number('snr_db', 'Signal to noise', (q) => q.snr_db, show.db),
    number('clipped', 'Clipped', clipped, show.percent, 'Share of values outside the range of codes'),
    number('entropy', 'Entropy', (q) => q.entropy, show.bits, 'Of the codes; at most the number of bits'),
    number('near_boundary', 'Near an edge', of('distance', 'near_boundary'), show.percent, 'Share of values nearer than 0.05 steps to the edge of two codes'),
    number('kurtosis', 'Kurtosis', of('variation', 'kurtosis'), show.number, '3 for a normal distribution'),
    number('bytes_packed', 'Packed', of('bytes', 'packed'), show.bytes),
    number('oscillating', 'Oscillating', of('oscillation', 'share'), show.percent, 'Share of weights that jump between two codes'),
    number('loss_added', 'Loss added', addedLoss, (x) => show.signed(x, show.number), 'Loss of the model, less its loss when this quantizer alone is float'),
    number('severity', 'Severity', (q) => q.severity, show.number, 'Larger is worse'),
  ].filter((column) => ['name', 'bits'].includes(column.key) || quantizers.some((q) => isNumber(column.value(q)) || typeof column.value(q) === 'string'));

  const all = table({ id: 'quantizers', caption: 'All quantizers', columns, rows: quantizers,
    sorted: columns.some((column) => column.key === 'severity') ? 'severity' : 'name', rowName: (q) => q.name });
  const role = h('select', { id: 'role', onchange: filter }, h('option', { value: '' }, 'everything'),
    [...new Set(quantizers.map((q) => q.role))].map((each) => h('option', { value: each }, `${ROLES[each] || each} only`)));
  const search = h('input', { id: 'search', type: 'search', placeholder: 'for example mlp', oninput: filter });
  const found = h('span', { class: 'note', 'aria-live': 'polite' });
  function filter() {
    const rows = quantizers.filter((q) => (role.value === '' || q.role === role.value) && q.name.includes(search.value.trim()));
    all.filter(rows);
    found.textContent = `${rows.length} of ${quantizers.length}`;
  }
  filter();
  all.insertBefore(h('div', { class: 'controls' }, h('label', { for: 'role' }, 'Show ', role),
    h('label', { for: 'search' }, 'Name has ', search), found), all.querySelector('.scroller'));
  page.listeners.push((chosen) => {
    for (const row of all.querySelectorAll('tbody tr')) row.classList.toggle('chosen', row.dataset.name === chosen.name);
  });
  return all;
}
