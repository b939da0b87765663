"use strict";

const $ = (id) => document.getElementById(id);
const BARS = 5;          // classes that are shown
const AT_ONCE = 2;       // requests under way in batch mode
const TRIES = 6;         // when the service is busy

let language = remembered("language") || (navigator.language || "en").toLowerCase().startsWith("fr") && "fr" || "en";
let service = null;      // what /v1/models says
let jobs = [];           // {file, name, url, answer, why}
let stream = null;       // of the camera
let generation = 0;      // goes up when earlier answers are no longer wanted
let heat = true;         // whether what the model looked at is shown

// --- words --------------------------------------------------------------------------------------------------------

function word(name, values = {}) {
  return WORDS[language][name].replace(/\{(\w+)\}/g, (_, key) => values[key]);
}

function percent(value) {
  return new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: 1 }).format(value);
}

function bytes(count) {
  return new Intl.NumberFormat(language, { style: "unit", unit: "megabyte", maximumFractionDigits: 1 }).format(count / 1e6);
}

function showWords() {
  document.documentElement.lang = language;
  for (const element of document.querySelectorAll("[data-word]")) element.textContent = word(element.dataset.word, { label: "" });
  $("language").textContent = word("other");
  $("language").lang = WORDS[language].otherCode;
  say("");
  showModel();
  showJobs();
}

function remembered(name) {
  try { return localStorage.getItem(name); } catch { return null; }
}

function say(text) { $("message").textContent = text; }

// --- the service --------------------------------------------------------------------------------------------------

function withKey() {
  let key = null;
  try { key = sessionStorage.getItem("key"); } catch { /* not allowed here: asked each time */ }
  return key ? { "X-API-Key": key } : {};
}

async function learn() {
  let answer;
  try { answer = await fetch("v1/models", { headers: withKey() }); } catch { return say(word("offline")); }
  $("key-form").hidden = answer.status !== 401;
  if (answer.status === 401) {
    say(word(withKey()["X-API-Key"] ? "keyWrong" : "keyNeeded"));
    return $("key").focus();
  }
  const body = await answer.json();
  if (!answer.ok) return say(word("failed", { why: body.error }));
  service = body;
  $("model").replaceChildren(...service.models.map((one) => new Option(one.name, one.name)));
  $("model-choice").hidden = service.models.length < 2;
  say("");
  showModel();
}

function model() { return service && service.models.find((one) => one.name === $("model").value); }

function showModel() {
  const one = model();
  if (!one) return;
  const shown = one.classes.slice(0, 12).join(", ") + (one.classes.length > 12 ? ", …" : "");
  $("about").textContent = word("about", { name: one.name, version: one.version, count: one.classes.length, classes: shown });
  $("notes").replaceChildren(...one.notes.map((note) => element("li", note)));
  $("one-cam").hidden = one.grad_cam;
}

async function ask(job) {
  const form = new FormData();
  form.append("files", job.file, "picture");  // its name stays here
  const one = model(), why = jobs.length === 1 && one && (one.grad_cam || one.neighbours);
  const address = "v1/predict?model=" + encodeURIComponent($("model").value) + (why ? "&explain=true" : "");
  for (let attempt = 1; ; attempt++) {
    let answer;
    try { answer = await fetch(address, { method: "POST", body: form, headers: withKey() }); } catch { throw new Error(word("offline")); }
    if (answer.status === 429 && attempt < TRIES) {
      say(word("busy"));
      await new Promise((done) => setTimeout(done, 1000 * Number(answer.headers.get("Retry-After") || 1)));
      continue;
    }
    if (answer.status === 429) throw new Error(word("stillBusy"));
    if (answer.status === 401) { $("key-form").hidden = false; throw new Error(word("keyWrong")); }
    const body = await answer.json();
    if (body.predictions) return body;
    throw new Error(word("failed", { why: body.error }));
  }
}

// --- pictures come in ---------------------------------------------------------------------------------------------

function take(files) {
  const wrong = [], good = [];
  for (const file of files) {
    const limit = service ? service.limits.body - 2000 : Infinity;
    if (!/^image\//.test(file.type) && !/\.(heic|heif|jp2|tiff?)$/i.test(file.name)) wrong.push(word("notPicture", { name: file.name }));
    else if (file.size > limit) wrong.push(word("tooLarge", { name: file.name, size: bytes(file.size), limit: bytes(limit) }));
    else good.push(file);
  }
  say(wrong.slice(0, 3).join(" ") || (good.length ? "" : word("noPicture")));
  if (!good.length) return;
  if (jobs.length < 2) forget();  // more are added to a table that is there
  jobs.push(...good.map((file) => ({ file, name: file.name, url: URL.createObjectURL(file), answer: null, why: null })));
  showJobs();
  work();
}

function forget() {
  for (const job of jobs) URL.revokeObjectURL(job.url);
  jobs = [];
  generation++;
}

async function work() {
  const mine = generation;
  const next = () => jobs.find((job) => !job.begun);
  const run = async () => {
    for (let job = next(); job && mine === generation; job = next()) {
      job.begun = true;
      try {
        const body = await ask(job);
        job.answer = body.predictions[0];
        job.limit = body.min_confidence;
        job.why = job.answer.error;
      } catch (error) { job.why = error.message; }
      if (mine !== generation) return;
      if ($("message").textContent === word("busy")) say("");
      showJob(job);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, run));
}

// --- answers go out -----------------------------------------------------------------------------------------------

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function verdict(job) {
  if (job.why) return { text: job.answer ? word("unreadable", { why: job.why }) : job.why, kind: "failed" };
  if (!job.answer) return { text: word("working"), kind: "" };
  if (!job.answer.sure) return { text: word("notSure"), kind: "unsure" };
  return { text: job.answer.labels.join(", ") || word("none"), kind: "" };
}

function showJobs() {
  $("one").hidden = jobs.length !== 1;
  $("many").hidden = jobs.length < 2;
  $("rows").replaceChildren();
  for (const job of jobs) { job.row = null; showJob(job); }
}

function showJob(job) {
  if (jobs.length === 1) return showOne(job);
  const row = element("tr");
  const picture = element("td"), image = element("img");
  image.src = job.url;
  image.alt = "";
  picture.append(image);
  const { text, kind } = verdict(job);
  row.append(picture, element("td", job.name), element("td", text, kind),
    element("td", job.answer && !job.why ? percent(job.answer.probability) : ""));
  if (job.row) job.row.replaceWith(row); else $("rows").append(row);
  job.row = row;
  const done = jobs.filter((one) => one.answer || one.why).length;
  $("progress").textContent = word("progress", { done, all: jobs.length });
  $("csv").disabled = done < jobs.length;
}

function showOne(job) {
  if ($("one-picture").getAttribute("src") !== job.url) $("one-picture").src = job.url;
  $("one-picture").alt = job.name;
  const { text, kind } = verdict(job);
  $("one-title").textContent = text;
  $("one-title").className = kind;
  const answered = job.answer && !job.why;
  $("one-note").textContent = answered && !job.answer.sure ? word("perhaps", { label: job.answer.label, limit: percent(job.limit) }) : "";
  $("one-cam").hidden = !answered || Boolean(model() && model().grad_cam);
  showWhy(job);
  const scores = answered ? Object.entries(job.answer.scores).slice(0, BARS) : [];
  $("bars").replaceChildren(...scores.map(([name, score]) => {
    const item = element("li"), line = element("div", undefined, "line"), meter = element("meter");
    meter.value = score;
    meter.setAttribute("aria-label", name);
    line.append(element("span", name), element("span", percent(score)));
    item.append(line, meter);
    return item;
  }));
}

// --- why ----------------------------------------------------------------------------------------------------------

function showWhy(job) {
  const why = job.answer && !job.why && job.answer.explanation;
  const near = why ? why.nearest : [];
  $("near").hidden = !near.length;
  $("near-list").replaceChildren(...near.map((one) => {
    const item = element("li"), image = element("img"), label = one.labels.join(", ");
    image.src = one.thumbnail;
    image.alt = word("nearAlt", { label });
    item.append(image, document.createTextNode(label), element("span", word("alike", { share: percent(one.similarity) })));
    return item;
  }));
  drawHeat(why);
}

function drawHeat(why) {
  const image = $("one-picture"), canvas = $("heat");
  const can = Boolean(why && why.map && image.naturalWidth);  // not where the browser cannot show the picture
  $("heat-tools").hidden = !can;
  $("heat-toggle").setAttribute("aria-pressed", String(heat));
  canvas.hidden = $("heat-hint").hidden = !can || !heat;
  if (canvas.hidden) return;
  canvas.setAttribute("aria-label", word("heatAlt", { label: why.label }));
  $("heat-hint").textContent = word("heatHint", { label: why.label });
  const scale = Math.min(1, 800 / Math.max(image.naturalWidth, image.naturalHeight));
  const width = canvas.width = Math.max(1, Math.round(image.naturalWidth * scale));
  const height = canvas.height = Math.max(1, Math.round(image.naturalHeight * scale));
  const rows = why.map.length, columns = why.map[0].length;
  const small = element("canvas");
  small.width = columns;
  small.height = rows;
  const pixels = new ImageData(columns, rows);
  why.map.flat().forEach((value, place) => pixels.data.set([255, 106, 0, Math.round(185 * value)], 4 * place));
  small.getContext("2d").putImageData(pixels, 0, 0);
  // The square that the model saw: cut out of the middle, all of it, or all of it with a margin.
  const rule = model() ? model().resize : "crop";
  const side = rule === "crop" ? Math.min(width, height) : Math.max(width, height);
  const [across, down] = rule === "stretch" ? [width, height] : [side, side];
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(small, (width - across) / 2, (height - down) / 2, across, down);
}

function cell(value) {
  let text = String(value ?? "");
  if (/^[=+\-@\t\r]/.test(text) && Number.isNaN(Number(text))) text = "'" + text;  // no formula in a spreadsheet
  return /[",\n\r]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
}

function table() {
  const classes = [...new Set(jobs.flatMap((job) => Object.keys(job.answer ? job.answer.scores : {})))].sort();
  const head = ["file", "label", "probability", "sure", "labels", "error", ...classes];
  const lines = jobs.map((job) => {
    const a = job.answer || { scores: {}, labels: [] };
    return [job.name, a.label, a.probability, a.sure, a.labels.join("; "), job.why, ...classes.map((name) => a.scores[name])];
  });
  return "\ufeff" + [head, ...lines].map((line) => line.map(cell).join(",")).join("\r\n") + "\r\n";
}

function download() {
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([table()], { type: "text/csv" }));
  link.download = "greffon.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// --- the camera ---------------------------------------------------------------------------------------------------

async function openCamera() {
  say("");
  if (!navigator.mediaDevices) return $("phone-camera").click();  // not allowed over plain HTTP: the phone's own camera
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    return say(word(error.name === "NotAllowedError" ? "cameraRefused" : "cameraNone"));
  }
  $("viewfinder").hidden = false;
  $("video").srcObject = stream;
  await $("video").play();
  $("shoot").focus();
}

function closeCamera() {
  if (stream) for (const track of stream.getTracks()) track.stop();
  stream = null;
  $("viewfinder").hidden = true;
  $("camera").focus();
}

async function shoot() {
  const video = $("video"), canvas = element("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
  if (blob) take([new File([blob], word("shot"), { type: "image/png" })]);
}

// --- what people do -----------------------------------------------------------------------------------------------

$("choose").addEventListener("click", () => $("files").click());
$("heat-toggle").addEventListener("click", () => { heat = !heat; if (jobs.length === 1) showWhy(jobs[0]); });
$("one-picture").addEventListener("load", () => { if (jobs.length === 1) showWhy(jobs[0]); });
for (const id of ["files", "phone-camera"]) {
  $(id).addEventListener("change", (event) => { take([...event.target.files]); event.target.value = ""; });
}
$("camera").addEventListener("click", openCamera);
$("camera-off").addEventListener("click", closeCamera);
$("shoot").addEventListener("click", shoot);
$("csv").addEventListener("click", download);
$("clear").addEventListener("click", () => { forget(); showJobs(); $("choose").focus(); });
$("model").addEventListener("change", () => { showModel(); forget(); showJobs(); });
$("language").addEventListener("click", () => {
  language = WORDS[language].otherCode;
  try { localStorage.setItem("language", language); } catch { /* asked anew next time */ }
  showWords();
});
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  try { sessionStorage.setItem("key", $("key").value); } catch { /* see withKey */ }
  $("key").value = "";
  learn();
});
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => { event.preventDefault(); $("drop").classList.add("over"); });
}
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("drop").classList.remove("over"); });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  take([...event.dataTransfer.files]);
});
document.addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (files.length) take(files.map((file) => (file.name ? file : new File([file], word("pasted"), { type: file.type }))));
});

showWords();
learn();
