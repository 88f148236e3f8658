// Improves what works without it: the Sync button, the time zone, the upload of a history, the picture to share.
"use strict";

const POLL_MS = 2000;
const BUSY = ["queued", "running", "blocked"];
const sync = document.querySelector("[data-sync]");
const form = sync && sync.querySelector("form");

if (form) {
  const button = form.querySelector("button");
  const toast = document.querySelector("[data-toast]");
  let asked = new URLSearchParams(location.search).get("sync");
  let ends = 0;

  const ask = async (address, options) => {
    const response = await fetch(address, {
      ...options, headers: { Accept: "application/json" }, redirect: "manual",
    });
    // Signed out meanwhile, or in again: the start page says so.
    if (response.status < 500 && !response.ok) location.assign("/");
    if (!response.ok) throw new Error(response.status);
    return response.json();
  };

  const countdown = () => {
    const left = Math.max(0, Math.ceil((ends - performance.now()) / 1000));
    if (!left) { poll(); return; }
    const minutes = Math.floor(left / 60);
    button.textContent = `Sync again in ${minutes}:${String(left % 60).padStart(2, "0")}`;
    setTimeout(countdown, 1000);
  };

  const show = (now) => {
    const isBusy = BUSY.includes(now.state);
    if (BUSY.includes(sync.dataset.state) && !isBusy) {
      // The numbers are new: load the page with them and its toast.
      location.assign(asked ? `/?sync=${asked}` : "/");
      return;
    }
    if (now.needs_reconnect) { location.assign("/"); return; }
    sync.dataset.state = now.state;
    button.textContent = now.label;
    button.disabled = !now.is_enabled;
    toast.textContent = now.toast;
    toast.className = `toast ${now.kind}`;
    if (isBusy) setTimeout(poll, POLL_MS);
    else if (now.seconds) { ends = performance.now() + now.seconds * 1000; countdown(); }
  };

  const poll = () => ask(asked ? `/status?sync=${asked}` : "/status").then(show)
    .catch(() => setTimeout(poll, 5 * POLL_MS));

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (button.disabled) return;
    const label = button.textContent;
    button.disabled = true;
    button.textContent = "Syncing…";
    toast.textContent = "";
    ask("/sync", { method: "POST", body: new URLSearchParams(new FormData(form)) })
      .then((now) => { if (now.request) asked = now.request; show(now); })
      .catch(() => {
        toast.textContent = "The page did not answer. Try again.";
        toast.className = "toast error";
        button.textContent = label;
        button.disabled = false;
      });
  });

  const seconds = Number(sync.dataset.seconds);
  if (BUSY.includes(sync.dataset.state)) setTimeout(poll, POLL_MS);
  else if (seconds) { ends = performance.now() + seconds * 1000; countdown(); }
}

const here = Intl.DateTimeFormat().resolvedOptions().timeZone;
for (const hint of document.querySelectorAll("[data-zone]")) {
  if (!here || here === hint.dataset.zone) continue;
  hint.querySelector("b").textContent = here;
  hint.hidden = false;
  const use = hint.querySelector("[data-use-zone]");
  if (use) use.addEventListener("click", () => { document.querySelector("#timezone").value = here; });
}

for (const link of document.querySelectorAll("[data-link]")) {
  // A click would take away what the focus selected.
  for (const event of ["focus", "click"]) link.addEventListener(event, () => link.select());
}

for (const upload of document.querySelectorAll("[data-upload]")) {
  const complaint = document.querySelector("[data-complaint]");
  const button = upload.querySelector("button");
  const [bar, line] = upload.querySelector("[data-progress]").children;

  const refuse = (...sentence) => {
    complaint.replaceChildren(...sentence);
    bar.parentElement.hidden = true;
    button.disabled = false;
    complaint.scrollIntoView({ block: "center" });
  };

  upload.addEventListener("submit", (event) => {
    event.preventDefault();
    if (button.disabled) return;
    const files = [...upload.querySelector("[type=file]").files];
    if (files.reduce((sum, file) => sum + file.size, 0) > Number(upload.dataset.most)) {
      refuse(upload.dataset.tooLarge);
      return;
    }
    complaint.textContent = "";
    button.disabled = true;
    bar.parentElement.hidden = false;
    bar.value = 0;
    line.textContent = "Uploading…";
    // fetch() does not say how far an upload is.
    const request = new XMLHttpRequest();
    request.upload.onprogress = (sent) => {
      if (sent.lengthComputable) bar.value = sent.loaded / sent.total;
    };
    const counting = setInterval(async () => {
      const now = await fetch("/history/status").then((said) => said.json()).catch(() => null);
      if (now && now.state === "reading" && now.rows_read && button.disabled) {
        bar.removeAttribute("value");
        line.textContent = `Reading… ${now.rows_read.toLocaleString()} plays so far`;
      }
    }, POLL_MS);
    request.upload.onload = () => { bar.removeAttribute("value"); line.textContent = "Reading…"; };
    request.onloadend = () => {
      clearInterval(counting);
      if (request.status === 200) { location.assign("/history"); return; }
      const page = new DOMParser().parseFromString(request.responseText, "text/html");
      const said = page.querySelector("[data-complaint]") || page.querySelector(".lead");
      refuse(...(said ? said.childNodes : ["The upload broke off. Try again."]));
    };
    request.open("POST", upload.action);
    request.send(new FormData(upload));
  });
}

for (const shown of document.querySelectorAll("[data-import=reading], [data-import=closed]")) {
  const look = () => fetch("/history/status").then((said) => said.json()).then((now) => {
    if (now.state !== shown.dataset.import) { location.reload(); return; }
    const rows = shown.querySelector("[data-rows]");
    if (rows) rows.textContent = now.rows_read.toLocaleString();
    setTimeout(look, POLL_MS);
  }).catch(() => setTimeout(look, 5 * POLL_MS));
  setTimeout(look, POLL_MS);
}

// A PNG, because few places take an SVG.
for (const save of document.querySelectorAll("[data-picture]")) {
  save.addEventListener("click", (event) => {
    event.preventDefault();
    const picture = new Image();
    picture.onload = () => {
      const canvas = document.createElement("canvas");
      canvas.width = canvas.height = 1080;
      canvas.getContext("2d").drawImage(picture, 0, 0, 1080, 1080);
      canvas.toBlob((blob) => {
        const link = document.createElement("a");
        link.href = URL.createObjectURL(blob);
        link.download = save.dataset.picture;
        link.click();
        URL.revokeObjectURL(link.href);
      });
    };
    picture.src = save.href;
  });
}
