// What the page asks of the server. Every refusal becomes an Error with the server's one line.

async function ask(method, path, body) {
  let answer;
  try {
    answer = await fetch(path, { method, body: body && JSON.stringify(body) });
  } catch {
    throw new Error("The server does not answer. Is it still running?");
  }
  const data = answer.status === 204 ? null : await answer.json();
  if (!answer.ok) throw new Error(sentence(data.error));
  return data;
}

export const getLimits = () => ask("GET", "/api/limits");
export const getSession = () => ask("GET", "/api/session");
export const pickSample = () => ask("POST", "/api/sample");
export const removeVideo = (id) => ask("DELETE", `/api/videos/${id}`);
export const startJob = (task, video, box) => ask("POST", "/api/jobs", { task, video, box });
export const jobStatus = (id, since) => ask("GET", `/api/jobs/${id}?since=${since}`);
export const cancelJob = (id) => ask("DELETE", `/api/jobs/${id}`);

// Not by fetch, which does not tell how much was sent.
export function uploadVideo(file, progress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", "/api/videos");
    request.responseType = "json";
    request.upload.onprogress = (event) => progress(event.loaded / event.total);
    request.onload = () =>
      request.status < 300 ? resolve(request.response) : reject(new Error(sentence(request.response?.error)));
    request.onerror = () => reject(new Error("The upload was cut off. Is the server still running?"));
    request.send(file);
  });
}

function sentence(text) {
  return text ? text[0].toUpperCase() + text.slice(1) + "." : "The server gave no answer.";
}
