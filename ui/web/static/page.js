// What a page does besides being read: renews its live parts, answers to keys, and shows while one types. Texts of others reach
// the page only as documents the browser parsed without running anything, or as textContent; Trusted Types forbid the rest.
"use strict";
(() => {
  const $ = (selector, inside = document) => inside.querySelector(selector);
  const $$ = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  const isTyping = (element) => element?.matches?.("input:not([type=checkbox]), textarea, select") ?? false;

  // A page that answers a form is renewed at its own address, not at the form's.
  if (document.body.dataset.itself) history.replaceState(null, "", document.body.dataset.itself);

  // ---- Time. The server's clock counts; the browser's may be wrong.
  let ahead = Number(document.body.dataset.now || 0) * 1000 - Date.now();
  if (!document.body.dataset.now) ahead = 0;
  const now = () => Date.now() + ahead;
  const two = (number) => String(number).padStart(2, "0");
  const clock = (seconds) => {
    const whole = Math.max(0, Math.floor(seconds));
    const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60), whole % 60];
    return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
  };
  const ago = (date) => {
    const seconds = (now() - date) / 1000;
    if (seconds < 5) return "just now";
    if (seconds < 60) return `${Math.floor(seconds)} s ago`;
    if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
    if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
    return date.toLocaleString();
  };
  const put = (element, text) => { if (element.textContent !== text) element.textContent = text; };
  function tick() {
    for (const element of $$("time:not(.fixed)")) put(element, ago(new Date(element.dateTime)));
    for (const element of $$("[data-deadline]")) {
      const left = Number(element.dataset.deadline) - now() / 1000;
      if (element.tagName === "PROGRESS") {
        element.value = Math.max(0, left);
        element.parentElement.classList.toggle("soon", left < 60);
      } else put(element, clock(left));
    }
  }

  // ---- Renewing. A live region's children carry keys; one is replaced only where the server says something else than before.
  const said = new WeakMap();
  const remember = (root) => { for (const child of $$("[data-live] > [data-key]", root)) said.set(child, child.outerHTML); };
  const announce = (text) => put($("#said"), text);

  // The element stays (an address may lead to it), what it says is new; what somebody unfolded stays unfolded.
  function become(mine, next) {
    const had = mine.contains(document.activeElement) ? document.activeElement : null;
    const folds = $$("details", next);
    $$("details", mine).forEach((fold, number) => { if (fold.open && folds[number]?.id === fold.id) folds[number].open = true; });
    for (const { name } of [...mine.attributes]) if (!next.hasAttribute(name)) mine.removeAttribute(name);
    for (const { name, value } of next.attributes) if (mine.getAttribute(name) !== value) mine.setAttribute(name, value);
    mine.replaceChildren(...next.childNodes);
    if (had) ((had.id && $(`#${CSS.escape(had.id)}`)) || $("a, button, summary", mine) || mine).focus({ preventScroll: true });
  }

  function reconcile(region, wanted) {
    const have = new Map([...region.children].map((child) => [child.dataset.key, child]));
    const fresh = [];
    // What became of a form is said on the page that answered it alone, and stays until somebody moves on.
    const isKept = (child) => "keep" in child.dataset;
    let place = region.firstElementChild;
    for (const child of [...wanted.children]) {
      while (place && isKept(place) && have.has(place.dataset.key)) place = place.nextElementSibling;
      const html = child.outerHTML;
      const mine = have.get(child.dataset.key);
      have.delete(child.dataset.key);
      if (mine === undefined || said.get(mine) !== html) {
        const next = document.importNode(child, true);
        if (mine === undefined) {
          said.set(next, html);
          region.insertBefore(next, place);
          fresh.push(next);
          continue;
        }
        become(mine, next);
        said.set(mine, html);
      }
      if (mine !== place) region.insertBefore(mine, place);
      place = mine.nextElementSibling;
    }
    for (const gone of have.values()) if (!isKept(gone)) gone.remove();
    return fresh;
  }

  // `byItself`: nobody asked for it, so it must not keep the session from ending.
  function load(address, body, byItself) {
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      request.open(body ? "POST" : "GET", address);
      request.responseType = "document";
      request.timeout = 20000;
      request.setRequestHeader("X-Part", "1");
      if (byItself) request.setRequestHeader("X-Unattended", "1");
      if (body) request.setRequestHeader("Content-Type", "application/x-www-form-urlencoded");
      request.onload = () => {
        if (request.status === 401) { location.assign(`/sign-in?next=${encodeURIComponent(location.pathname + location.search)}`); return; }
        if (request.response?.body && request.status !== 503) resolve(request.response); else reject(request.status);
      };
      request.onerror = request.ontimeout = () => reject(0);
      request.send(body || null);
    });
  }

  function adopt(page, kinds) {
    const stamp = Number(page.body.dataset.now || 0);
    if (stamp) ahead = stamp * 1000 - Date.now();
    for (const region of $$("[data-live]")) {
      if (kinds && !kinds.has(region.dataset.live)) continue;
      const wanted = region.id && page.getElementById(region.id);
      if (!wanted) continue;
      const fresh = reconcile(region, wanted);
      if (region.dataset.new && kinds) arrived(fresh.filter((one) => one.matches(".row")));
    }
    filterNow();
    tick();
    badge();
  }

  let loading = false;
  let wanted = null;
  const earliest = { flows: 0 };
  async function renew(kinds) {
    wanted = new Set([...(wanted || []), ...kinds]);
    if (loading) return;
    loading = true;
    try {
      while (wanted) {
        const now_ = wanted;
        wanted = null;
        if (now_.has("flows") && !now_.has("approvals")) {
          // Flows move several times a second; once a second is as often as anybody reads.
          const wait = earliest.flows - Date.now();
          if (wait > 0) await new Promise((done) => setTimeout(done, wait));
          earliest.flows = Date.now() + 1000;
        }
        const address = location.pathname + location.search;
        const page = await load(address, null, true);
        if (address === location.pathname + location.search) adopt(page, now_);
      }
    } catch {
      line(true);
    } finally {
      loading = false;
    }
  }

  function arrived(rows) {
    if (!rows.length) return;
    for (const row of rows) row.classList.add("fresh");
    announce(rows.length === 1 ? `New approval: ${$("b", rows[0])?.textContent}` : `${rows.length} new approvals`);
    if (document.hidden && window.Notification?.permission === "granted") {
      const note = new Notification("Sluicegate: a command waits for you", { body: rows.map((row) => $("b", row)?.textContent).join(", "), tag: "waiting" });
      note.onclick = () => { window.focus(); note.close(); };
    }
  }

  const plainTitle = document.title;
  let title = plainTitle;
  function badge() {
    const count = Number($("#waiting [data-waiting]")?.dataset.waiting || 0);
    document.title = count ? `(${count}) ${title}` : title;
    const icon = $("#icon");
    const address = count ? icon.dataset.waiting : icon.dataset.calm;
    if (icon.getAttribute("href") !== address) icon.setAttribute("href", address);
  }

  function line(isBroken) { const state = $("#line"); if (state) state.hidden = !isBroken; }

  // ---- News. One page of a browser listens and tells the others: a browser keeps six connections to a host, not one for each page.
  const NEWS = ["hello", "changed", "away", "back", "signed-out"];
  function listen(heed) {
    const channel = window.BroadcastChannel ? new BroadcastChannel("sluicegate") : null;
    if (channel) channel.onmessage = (event) => heed(event.data.sort, event.data.said);
    const tell = (sort, said) => { heed(sort, said); channel?.postMessage({ sort, said }); };
    const open = () => {
      const events = new EventSource("/events");
      for (const sort of NEWS) events.addEventListener(sort, (event) => { if (sort === "signed-out") events.close(); tell(sort, JSON.parse(event.data)); });
      events.onerror = () => {
        tell("away", {});
        // Refused for good, or the process is just being started: a request says which, then it is tried again.
        if (events.readyState === EventSource.CLOSED) load("/approvals", null, true).then(open, () => setTimeout(open, 1500));
      };
      window.addEventListener("pagehide", () => events.close(), { once: true });
    };
    // Whoever has the lock listens, for as long as its page is there.
    if (channel && navigator.locks) navigator.locks.request("sluicegate-news", () => { open(); return new Promise(() => {}); });
    else open();
  }

  function follow() {
    let serials = null;
    const here = new Set($$("[data-live]").map((region) => region.dataset.live));
    const look = (kinds) => { const mine = kinds.filter((kind) => here.has(kind)); if (mine.length) renew(mine); };
    listen((sort, said) => {
      line(sort === "away");
      if (sort === "signed-out") location.assign(`/sign-in?next=${encodeURIComponent(location.pathname)}`);
      else if (sort === "changed") {
        look(Object.keys(said).filter((kind) => !serials || serials[kind] !== said[kind]));
        serials = said;
      } else if (sort !== "away") look([...here]);
    });
    // What moved between the page's making and now.
    look([...here]);
  }

  // ---- Moving between approvals without leaving the page.
  async function visit(address, isBack) {
    let page;
    try { page = await load(address); } catch { location.assign(address); return; }
    if (!isBack) history.pushState(null, "", address);
    for (const kept of $$("[data-keep]")) kept.remove();
    title = page.title;
    $("#split")?.classList.toggle("has-chosen", page.querySelector("#split")?.classList.contains("has-chosen") ?? false);
    const panel = $("#panel");
    panel.scrollTop = 0;
    panel.dataset.shown = page.querySelector("#panel")?.dataset.shown || "";
    adopt(page, null);
    if (matchMedia("(max-width: 760px)").matches) window.scrollTo(0, 0);
    announce($("#panel-title")?.textContent || "All approvals");
  }
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[data-soft]");
    if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    visit(link.getAttribute("href"));
  });
  window.addEventListener("popstate", () => { if ($("#split")) visit(location.pathname + location.search, true); });

  // ---- Filtering what is on the page.
  function filterNow() {
    const field = $("#filter[type=search]");
    if (!field) return;
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const child of $$("[data-filtered] > [data-key]")) {
      const text = words.length ? child.textContent.toLowerCase() : "";
      child.hidden = words.some((word) => !text.includes(word));
    }
  }
  document.addEventListener("input", (event) => { if (event.target.id === "filter") filterNow(); });

  // ---- Keys.
  let chord = 0;
  const places = { i: "/approvals", f: "/flows", p: "/policy", h: "/health", e: "/people" };
  function step(by) {
    const links = $$("#rows > [data-key]:not([hidden])").map((row) => (row.matches("a") ? row : $("a", row))).filter(Boolean);
    if (!links.length) return;
    const at = links.indexOf(document.activeElement);
    const start = at >= 0 ? at : links.findIndex((link) => link.hasAttribute("aria-current"));
    const next = links[Math.min(links.length - 1, Math.max(0, start < 0 ? 0 : start + by))];
    next.focus();
    next.scrollIntoView({ block: "nearest" });
  }
  function answer(id) {
    const part = $(`#${id}`);
    if (!part) return false;
    if (part.tagName === "FORM") { part.requestSubmit(); return true; }
    for (const other of $$(".decide details[open]")) if (other !== part) other.open = false;
    part.open = true;
    const first = $("[data-first]", part);
    first.focus({ preventScroll: true });
    part.scrollIntoView({ block: "nearest" });
    return true;
  }
  document.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    if ((event.ctrlKey || event.metaKey) && event.key === "Enter") {
      const form = document.activeElement?.closest?.("form");
      if (form && form.method === "post") { event.preventDefault(); form.requestSubmit($("button.primary, button.danger", form) || undefined); }
      return;
    }
    if (event.key === "Escape") {
      const open = $(".decide details[open]") || $(".menu[open]");
      if (open) { open.open = false; $("summary", open)?.focus(); event.preventDefault(); }
      else if (isTyping(document.activeElement)) document.activeElement.blur();
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target) || $("dialog[open]")) return;
    const key = event.key;
    if (chord && Date.now() - chord < 1200) {
      chord = 0;
      if (places[key]) { event.preventDefault(); location.assign(places[key]); }
      return;
    }
    const done = {
      g: () => { chord = Date.now(); return true; },
      j: () => { step(1); return true; },
      k: () => { step(-1); return true; },
      a: () => answer("approve"),
      r: () => answer("reject"),
      m: () => answer("modify"),
      "/": () => { const field = $("#filter"); field?.focus(); field?.select(); return Boolean(field); },
      "?": () => { $("#keys")?.showModal(); return true; },
    }[key]?.();
    if (done) event.preventDefault();
  });
  $("#keys-button")?.addEventListener("click", () => $("#keys").showModal());
  document.addEventListener("click", (event) => {
    const open = event.target.closest?.("[data-leave]")?.closest("details");
    if (open) { open.open = false; $("summary", open).focus(); }
  });
  document.addEventListener("click", (event) => { const menu = $(".menu[open]"); if (menu && !menu.contains(event.target)) menu.open = false; });
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-copy]");
    if (!button) return;
    const text = $$(".line", $(button.dataset.copy)).map((one) => one.textContent).join("\n");
    navigator.clipboard?.writeText(text).then(() => { put(button, "Copied"); setTimeout(() => put(button, "Copy"), 1500); });
  });

  // ---- A rule that a link leads to shows its source.
  function showTarget() {
    let name = "";
    try { name = decodeURIComponent(location.hash.slice(1)); } catch { /* an address that somebody made up */ }
    const target = name.startsWith("rule-") && document.getElementById(name);
    if (target) { for (const more of $$("details", target)) more.open = true; target.scrollIntoView({ block: "start" }); }
  }
  window.addEventListener("hashchange", showTarget);
  showTarget();

  // ---- Once is enough: a form that was sent cannot be sent again.
  document.addEventListener("submit", (event) => {
    if (event.target.dataset.sent) { event.preventDefault(); return; }
    if (event.target.method === "post") { event.target.dataset.sent = "1"; setTimeout(() => delete event.target.dataset.sent, 4000); }
  });

  // ---- Theme and notifications.
  $("#theme")?.addEventListener("click", () => {
    const isDark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    const chosen = isDark ? "light" : "dark";
    document.documentElement.dataset.theme = chosen;
    try { localStorage.setItem("theme", chosen); } catch { /* kept for this page then */ }
  });
  const notify = $("#notify");
  if (notify && window.Notification?.permission === "default") {
    notify.hidden = false;
    notify.addEventListener("click", () => Notification.requestPermission().then(() => { notify.hidden = true; }));
  }

  // ---- The editor: colours under the text, and the verdict as one types.
  const WORDS = new Set(("select from where and or not in is null insert into values update set delete truncate table create alter drop index view " +
    "on using join left right inner outer full cross group by order having limit offset returning with as distinct union all except intersect case when then " +
    "else end begin commit rollback savepoint grant revoke to do call exists between like ilike any some cascade restrict only true false default primary key " +
    "references foreign unique check constraint add column if for share nowait skip locked merge matched copy explain analyze").split(" "));
  const PARTS = /(--[^\n]*|\/\*[\s\S]*?(?:\*\/|$))|('(?:[^']|'')*'?|\$\$[\s\S]*?(?:\$\$|$))|("(?:[^"]|"")*"?)|(\b\d+(?:\.\d+)?\b)|([A-Za-z_][A-Za-z0-9_$]*)/g;
  const COLOURED_MAX = 20000;
  function colour(text, under) {
    const parts = [];
    const add = (words, kind) => {
      if (!words) return;
      if (!kind) { parts.push(document.createTextNode(words)); return; }
      const span = document.createElement("span");
      span.className = `q-${kind}`;
      span.textContent = words;
      parts.push(span);
    };
    if (text.length > COLOURED_MAX) add(text);
    else {
      let end = 0;
      for (const found of text.matchAll(PARTS)) {
        add(text.slice(end, found.index));
        const kind = found[1] ? "comment" : found[2] ? "string" : found[4] ? "number" : found[5] && WORDS.has(found[5].toLowerCase()) ? "keyword" : "";
        add(found[0], kind);
        end = found.index + found[0].length;
      }
      add(text.slice(end));
    }
    under.replaceChildren(...parts, document.createTextNode("\n"));
  }
  const field = $("#text");
  if (field) {
    const under = $(".editor .under");
    const preview = $("#preview");
    let timer = 0;
    let turn = 0;
    const show = () => { colour(field.value, under); under.scrollTop = field.scrollTop; };
    const judge = async (byItself) => {
      const mine = ++turn;
      const form = new URLSearchParams(new FormData(field.form));
      form.delete("reason");
      try {
        const page = await load(field.dataset.preview, form.toString(), byItself);
        const wanted_ = page.getElementById("preview");
        if (mine !== turn) return;
        if (wanted_) reconcile(preview, wanted_);
        const state = page.getElementById("state");
        if (state) reconcile($("#state"), state);
      } catch { line(true); }
      if (mine === turn) preview.classList.remove("waiting");
    };
    field.addEventListener("input", (event) => {
      show();
      preview.classList.add("waiting");
      clearTimeout(timer);
      timer = setTimeout(judge, 250, !event.isTrusted);
    });
    field.addEventListener("scroll", () => { under.scrollTop = field.scrollTop; });
    new ResizeObserver(show).observe(field);
    for (const part of preview.children) said.set(part, part.outerHTML);
    show();
    field.setSelectionRange(field.value.length, field.value.length);
  }

  // A modify page was posted: fetched again by address it would be another page.
  const isPosted = Boolean(field);
  remember(document);
  tick();
  badge();
  setInterval(tick, 1000);
  if ("livePage" in document.body.dataset) {
    if (isPosted) {
      let known = null;
      listen((sort, said) => {
        line(sort === "away");
        if (sort === "changed") {
          if (known !== null && said.approvals !== known) field.dispatchEvent(new Event("input"));
          known = said.approvals;
        }
      });
    } else follow();
  }
})();
