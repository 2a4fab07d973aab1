// What the server sends, as long as the page is seen: a page that is hidden asks for nothing.

const SILENT = 5000; // Milliseconds without a word, after which the page says so.
const ENDED = 1500; // The same, of a stream that has ended and is not taken up again.
const AGAIN = 2000; // After which one that was refused is asked for again.

export function follow(address, { look, lost, again }) {
  let source = null;
  let timers = {};

  function after(name, milliseconds, act) {
    timers[name] ??= setTimeout(act, milliseconds);
  }

  function stop() {
    Object.values(timers).forEach(clearTimeout);
    timers = {};
  }

  function open() {
    close();
    after("silent", SILENT, lost);
    source = new EventSource(address);
    for (const kind of ["whole", "more", "message"]) {
      source.addEventListener(kind, (event) => {
        stop();
        after("silent", SILENT, lost);
        again();
        look(JSON.parse(event.data), kind);
      });
    }
    source.addEventListener("error", () => {
      after("ended", ENDED, lost);
      // A stream that has ended is opened anew by the browser, at once; one that was refused is not.
      if (source?.readyState === EventSource.CLOSED) after("again", AGAIN, open);
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
