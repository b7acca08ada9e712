'use strict';
const $ = id => document.getElementById(id);
const token = () => sessionStorage.getItem('token') || '';
const headers = more => ({...(token() ? {Authorization: 'Bearer ' + token()} : {}), ...more});
let watched = null, stop = null;

async function ask(path, options) {
  const answer = await fetch(path, {...options, headers: headers((options || {}).headers)});
  const body = await answer.json();
  $('key').hidden = answer.status !== 401 && !token();
  if (!answer.ok) throw new Error(body.error || JSON.stringify(body.detail));
  return body;
}

function fill(body, rows) {
  body.replaceChildren(...rows.map(({cells, onclick}) => {
    const row = document.createElement('tr');
    for (const text of cells) {
      const cell = document.createElement('td');
      cell.textContent = text === null || text === undefined ? '' : String(text);
      row.append(cell);
    }
    if (onclick) { row.className = 'row'; row.onclick = onclick; }
    return row;
  }));
}

function shape(name, attributes, text) {
  const made = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function curve(points) {
  const svg = $('curve');
  svg.replaceChildren();
  if (!points.length) return;
  const xs = points.map(p => p.tokens), ys = points.map(p => p.loss);
  const most = Math.max(...xs, 1), high = Math.max(...ys), low = Math.min(...ys);
  const x = v => 60 + 720 * v / most, y = v => 170 - 150 * (high > low ? (v - low) / (high - low) : 0);
  const line = points.map((p, i) => (i ? 'H' + x(p.tokens) + 'V' : 'M' + x(p.tokens) + ',') + y(p.loss));
  svg.append(shape('path', {d: line.join(''), fill: 'none', stroke: '#0072b2', 'stroke-width': 2}));
  svg.append(shape('text', {x: 4, y: 24, 'font-size': 13}, high.toPrecision(3)));
  svg.append(shape('text', {x: 4, y: 174, 'font-size': 13}, low.toPrecision(3)));
  svg.append(shape('text', {x: 560, y: 195, 'font-size': 13}, most.toLocaleString('en') + ' tokens'));
  svg.append(shape('text', {x: 60, y: 12, 'font-size': 13}, 'best KL on search text'));
}

function layers(map) {
  const svg = $('layers');
  svg.replaceChildren();
  map.forEach((layer, i) => {
    const width = 700 / map.length;
    [layer.attention_kept, layer.mlp_kept].forEach((kept, side) => {
      const top = 20 + 80 * side, tall = 66 * kept, left = 80 + i * width;
      svg.append(shape('rect', {x: left, y: top, width: width * .85, height: 66, fill: '#eef2f5'}));
      svg.append(shape('rect', {x: left, y: top + 66 - tall, width: width * .85, height: tall, fill: '#56b4e9'}));
    });
    svg.append(shape('text', {x: 80 + i * width, y: 182, 'font-size': 12}, layer.layer));
  });
  if (map.length) ['Attention', 'MLP'].forEach((name, side) =>
    svg.append(shape('text', {x: 4, y: 58 + 80 * side, 'font-size': 13}, name)));
}

async function events(name, signal, told) {
  const answer = await fetch('/v1/studies/' + encodeURIComponent(name) + '/events', {headers: headers(), signal});
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const {value, done} = await reader.read();
    if (done) return;
    const parts = (rest + value).split('\n\n');
    rest = parts.pop();
    for (const part of parts) {
      const data = part.split('\n').find(line => line.startsWith('data: '));
      if (data) told(JSON.parse(data.slice(6)));
    }
  }
}

function conclude(report) {
  // Where a decoding was searched too, the report tells of no loss and of no layers.
  layers(report.layer_map || []);
  const loss = report.loss ? 'KL ' + report.loss.kl.toPrecision(4) : '';
  $('said').textContent = loss ? loss + (report.met ? ', target met' : ', target missed') : report.verdict;
}

async function watch(name) {
  if (stop) stop.abort();
  stop = new AbortController();
  watched = name;
  location.hash = encodeURIComponent(name);
  $('study').hidden = false;
  $('name').textContent = name;
  $('said').textContent = '';
  layers([]); curve([]);
  const points = [];
  try { const report = await ask('/v1/studies/' + encodeURIComponent(name) + '/report');
    if (report.history) report.history.forEach(p => points.push(p));
    curve(points);
    conclude(report);
    return;
  } catch (error) { $('said').textContent = error.message; }
  try { await events(name, stop.signal, event => {
    if (watched !== name) return;
    if (event.event === 'generation') { points.push(event); curve(points); }
    $('said').textContent = event.stage || event.text || event.headline || event.event;
  });
    if (watched !== name) return;
    list();
    const report = await ask('/v1/studies/' + encodeURIComponent(name) + '/report');
    conclude(report);
  } catch (error) { if (error.name !== 'AbortError') $('said').textContent = error.message; }
}

async function list() {
  try {
    const studies = await ask('/v1/studies');
    fill($('studies'), studies.map(s => ({
      cells: [s.name, s.state, s.trials, s.model, s.met === true ? 'met' : s.met === false ? 'missed' : ''],
      onclick: () => watch(s.name)})));
    const schedules = await ask('/v1/schedules');
    fill($('verdicts'), schedules.flatMap(s => s.runs.slice(-5).reverse().map(run => {
      const verdict = run.verdict || {};
      return {cells: [s.name, run.due_at, verdict.outcome || run.state,
        (verdict.reasons || [verdict.error || '']).join('; ')]};
    })));
    $('problem').textContent = '';
  } catch (error) { $('problem').textContent = error.message; }
}

$('key').onsubmit = event => { event.preventDefault(); sessionStorage.setItem('token', $('token').value); list(); };
$('submit').onsubmit = async event => {
  event.preventDefault();
  try {
    await ask('/v1/studies', {method: 'POST', headers: {'Content-Type': 'application/json'},
      body: JSON.stringify({name: $('new').value, spec: JSON.parse($('spec').value)})});
    $('problem').textContent = '';
    list(); watch($('new').value);
  } catch (error) { $('problem').textContent = error.message; }
};
$('cancel').onclick = () => ask('/v1/studies/' + encodeURIComponent(watched) + '/cancel', {method: 'POST'})
  .then(list, error => { $('problem').textContent = error.message; });
list();
if (location.hash) watch(decodeURIComponent(location.hash.slice(1)));
setInterval(list, 5000);
