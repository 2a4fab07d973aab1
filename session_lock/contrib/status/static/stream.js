// What the server sends, as long as the page is seen: a page that is hidden asks for nothing.

const SILENT = 5000; // Milliseconds without a word, after which the page says so.
const ENDED = 1500; // The same, of a stream that has ended and is not taken up again.
const AGAIN = 2000; // After which one that was refused is asked for again.

export function follow(address, { look, lost, again, back }) {
  let source = null;
  let away = false; // It was said that there is no answer.
  let refusal = null; // What was said by whoever refused.
  let timers = {};

  function after(name, milliseconds, act) {
    timers[name] ??= setTimeout(act, milliseconds);
  }

  function stop() {
    Object.values(timers).forEach(clearTimeout);
    timers = {};
  }

  function silent() {
    away = true;
    lost(refusal);
  }

  function heard() {
    stop();
    after("silent", SILENT, silent);
    refusal = null;
  }

  // An EventSource that is refused does not say why. Asked once, until there is an answer again.
  async function ask() {
    const leaving = new AbortController();
    try {
      const answer = await fetch(address, { signal: leaving.signal });
      if (answer.ok) return;
      const plain = answer.headers.get("content-type")?.startsWith("text/plain");
      refusal = (plain ? await answer.text() : `${answer.status} ${answer.statusText}`).slice(0, 300);
      silent();
    } catch {
      // It is away.
    } finally {
      leaving.abort();
    }
  }

  function open() {
    close();
    after("silent", SILENT, silent);
    source = new EventSource(address);
    source.addEventListener("alive", () => {
      heard();
      if (away) back();
      away = false;
    });
    for (const kind of ["whole", "more", "message"]) {
      source.addEventListener(kind, (event) => {
        heard();
        away = false;
        again();
        look(JSON.parse(event.data), kind);
      });
    }
    source.addEventListener("error", () => {
      after("ended", ENDED, silent);
      // A stream that has ended is opened anew by the browser, at once; one that was refused is not.
      if (source?.readyState !== EventSource.CLOSED) return;
      after("again", AGAIN, open);
      if (refusal === null) ask();
    });
  }

  function close() {
    stop();
    source?.close();
    source = null;
  }

  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  addEventListener("pagehide", close);
  addEventListener("pageshow", (event) => {
    if (event.persisted) open();
  });
  if (!document.hidden) open();
}
