// The steps of the page: empty, load, draw, run, done. `view` shows one; the rest of the file moves between them.

import { BoxEditor } from "/page/box.js";
import { ScoreCurve } from "/page/curve.js";
import * as server from "/page/server.js";

const POLL = 250; // milliseconds between two looks at a job
const STEPS = { empty: 0, load: 0, draw: 1, run: 2, done: 3 }; // the step that each view is at
const $ = (id) => document.getElementById(id);

let limits = null;
let video = null; // as the server describes it, and its name
let job = null; // id of the run that is shown
let comparing = null; // id of the comparison that runs

const editor = new BoxEditor($("frame"), boxChanged);
const curve = new ScoreCurve($("curve"), (frame) => {
  if (document.body.dataset.view === "done") $("result").currentTime = (frame + 0.5) / video.fps;
});

function view(name) {
  document.body.dataset.view = name;
  document.querySelectorAll("li").forEach((step, index) => {
    step.classList.toggle("now", index === STEPS[name]);
    step.classList.toggle("past", index < STEPS[name]);
  });
}

function fail(error) {
  $("error").hidden = !error;
  $("error").firstElementChild.textContent = error ? error.message : "";
}

$("error").lastElementChild.onclick = () => fail(null);

// Runs what a button does; an error is shown, and the view goes back where one is named.
async function attempt(action, back) {
  fail(null);
  try {
    await action();
  } catch (error) {
    fail(error);
    if (back) view(back);
  }
}

// --- the video

async function load(name, bring) {
  view("load");
  $("upload").removeAttribute("value");
  const found = await bring();
  const image = new Image();
  image.src = `/api/videos/${found.id}/first.jpg`;
  await image.decode();
  video = { ...found, name };
  sessionStorage.setItem(found.id, name); // for a reload: the server does not know the file's name
  const length = video.frames ? `${video.frames} frames, ${(video.frames / video.fps).toFixed(1)} s` : "length not told";
  $("about-video").textContent = `${name}: ${video.width} × ${video.height}, ${length}`;
  document.querySelector(".picture").style.setProperty("--aspect", video.width / video.height);
  view("draw");
  editor.show(image);
  editor.set(video.box);
}

function upload(file) {
  attempt(async () => {
    if (!file) return;
    if (limits && file.size > limits.bytes) throw new Error(`The file must have at most ${limits.bytes / 1e6} MB.`);
    $("loading").textContent = `Sending ${file.name}`;
    await load(file.name, () => server.uploadVideo(file, (part) => {
      $("upload").value = part;
      if (part === 1) $("loading").textContent = "Reading the video";
    }));
  }, "empty");
}

$("choose").onclick = () => $("file").click();
$("file").onchange = () => {
  upload($("file").files[0]);
  $("file").value = ""; // the same file may be chosen again
};
$("sample").onclick = () => attempt(async () => {
  $("loading").textContent = "Making the sample video";
  await load("Sample", server.pickSample);
}, "empty");
for (const [event, over] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
  $("drop").addEventListener(event, (happened) => {
    happened.preventDefault();
    $("drop").classList.toggle("over", over);
    if (event === "drop") upload(happened.dataTransfer.files[0]);
  });
}
$("again").onclick = () => attempt(async () => {
  const old = video;
  clearRun();
  video = null;
  view("empty");
  $("about-video").textContent = "A short one in which the target is seen from the first frame on.";
  await server.removeVideo(old.id);
});

// --- the box

const numbers = ["x", "y", "w", "h"].map($);

function boxChanged(box) {
  numbers.forEach((input, index) => {
    if (document.activeElement !== input || !box) input.value = box ? box[index] : "";
  });
  fail(null);
}
for (const input of numbers) {
  input.oninput = () => {
    const box = numbers.map((each) => each.valueAsNumber);
    if (!box.some(Number.isNaN)) editor.set(box);
  };
}
$("redraw").onclick = () => {
  clearRun();
  fail(null);
  view("draw");
  editor.draw();
};

// --- tracking

function clearRun() {
  if (comparing) server.cancelJob(comparing).catch(() => {});
  job = comparing = null;
  curve.clear();
  $("result").removeAttribute("src");
  $("result").load();
  for (const id of ["note", "comparison", "get-video", "overlap-tile", "cancel-compare"]) $(id).hidden = true;
  for (const id of ["agreement", "compare-status", "status"]) $(id).textContent = "";
  for (const id of ["fps", "count", "lost"]) $(id).textContent = "–";
  $("compare").hidden = false;
}

$("track").onclick = () => attempt(async () => {
  const { id } = await server.startJob("track", video.id, editor.box);
  await showJob(id);
}, "draw");

async function showJob(id) {
  clearRun();
  job = id;
  $("preview").src = `/api/videos/${video.id}/first.jpg`;
  $("running").hidden = false;
  view("run");
  await follow(id);
}

$("cancel").onclick = () => attempt(() => server.cancelJob(job));

async function follow(id) {
  let shown = null;
  while (job === id) {
    const state = await server.jobStatus(id, curve.scores.length);
    if (job !== id) return;
    showRun(state);
    if (state.preview !== shown) {
      shown = state.preview;
      $("preview").src = `/api/jobs/${id}/preview.jpg?frame=${shown}`;
    }
    if (state.ended) return finish(id, state);
    await sleep(POLL);
  }
}

function showRun(state) {
  const tracked = state.summary !== null;
  curve.add(state.scores, state.lost, tracked ? state.summary.frames : state.total);
  progress($("progress"), state);
  const fps = tracked ? state.summary.fps_tracker : state.fps;
  $("fps").textContent = fps ? `${fps.toFixed(fps < 10 ? 1 : 0)} fps` : "–";
  $("count").textContent = curve.scores.length;
  $("lost").textContent = curve.lost.filter(Boolean).length;
  $("status").textContent = said(state, { track: "Tracking", video: "Making the annotated video" }[state.phase]);
  if (tracked && state.summary.mean_overlap !== null) {
    $("overlap-tile").hidden = false;
    $("overlap").textContent = state.summary.mean_overlap.toFixed(3);
  }
}

function finish(id, state) {
  if (state.error) throw new Error(state.error[0].toUpperCase() + state.error.slice(1) + ".");
  if (state.state === "cancelled") {
    view("draw");
    return;
  }
  $("running").hidden = true;
  $("note").hidden = !state.note;
  $("note").textContent = state.note;
  $("get-boxes").href = `/api/jobs/${id}/boxes.txt`;
  view("done");
  if (state.video) {
    $("get-video").hidden = false;
    $("get-video").href = $("result").src = `/api/jobs/${id}/video`;
    $("get-video").download = state.video;
    $("result").play().catch(() => {}); // a browser may want a click first
  }
  requestAnimationFrame(() => curve.draw());
}

function progress(bar, state) {
  if (state.total && state.state === "running") bar.value = state.done / state.total;
  else bar.removeAttribute("value");
}

function said(state, doing) {
  if (state.state === "waiting") return `Waiting: ${state.before} before this one`;
  return doing ? `${doing}: frame ${state.done}${state.total ? ` of ${state.total}` : ""}` : "";
}

function followVideo() {
  const { currentTime, duration } = $("result");
  if (document.body.dataset.view === "done" && duration) {
    curve.point(Math.min(Math.floor(currentTime * video.fps), curve.scores.length - 1));
  }
  requestAnimationFrame(followVideo);
}

// --- the comparison

$("compare").onclick = () => attempt(async () => {
  const { id } = await server.startJob("compare", video.id, editor.box);
  await followComparison(id);
});

async function followComparison(id) {
  comparing = id;
  $("compare").hidden = true;
  $("cancel-compare").hidden = false;
  try {
    while (comparing === id) {
      const state = await server.jobStatus(id, 0);
      if (comparing !== id) return;
      showComparison(state);
      if (state.error) throw new Error(state.error);
      if (state.ended) break;
      await sleep(POLL);
    }
  } finally {
    if (comparing === id) {
      comparing = null;
      $("compare").hidden = false;
      $("cancel-compare").hidden = true;
    }
  }
}
$("cancel-compare").onclick = () => attempt(() => server.cancelJob(comparing));

function showComparison(state) {
  const got = state.comparison;
  $("compare-status").textContent = state.ended ? state.note : said(state, "Comparing");
  $("comparison").hidden = !got;
  if (!got) return;
  const most = Math.max(got.fused_fps, got.reference_fps);
  for (const [name, row] of [["fused", 0], ["reference", 1]]) {
    const fps = got[`${name}_fps`];
    $(`${name}-fps`).textContent = `${fps.toFixed(1)} fps`;
    document.querySelectorAll(".bar")[row].style.width = `${(100 * fps) / most}%`;
  }
  const ratio = got.fused_fps / got.reference_fps;
  $("agreement").textContent =
    `${ratio.toFixed(1)}× as fast; overlap of the boxes ${got.agreement.toFixed(3)}, at least ${got.least.toFixed(3)}, ` +
    `over ${got.frames} frames`;
}

const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

// --- after a reload, or in a second tab

async function resume() {
  const session = await server.getSession();
  if (!session.video || document.body.dataset.view !== "empty") return;
  await load(sessionStorage.getItem(session.video.id) || "Your video", async () => session.video);
  if (!session.run) return;
  editor.set(session.run.box);
  await showJob(session.run.id);
  if (session.comparing) await followComparison(session.comparing);
}

view("empty");
requestAnimationFrame(followVideo);
attempt(async () => {
  limits = await server.getLimits();
  $("limits").textContent =
    `MP4, MOV, WebM, MKV, AVI …  up to ${limits.bytes / 1e6} MB, ${limits.seconds} seconds and ${limits.frames} frames`;
});
attempt(resume, "empty");
