// What the server sends, as long as the page is seen: a page that is hidden asks for nothing.

const PATIENCE = 3000; // Milliseconds without a word, after which the page says so.
const AGAIN = 2000;

export function follow(address, { look, lost, again }) {
  let source = null;
  let timer = null;
  let silent = null;

  function heard() {
    clearTimeout(silent);
    silent = setTimeout(lost, PATIENCE + AGAIN);
    again();
  }

  function open() {
    close();
    silent = setTimeout(lost, PATIENCE);
    source = new EventSource(address);
    for (const kind of ["whole", "more", "message"]) {
      source.addEventListener(kind, (event) => {
        heard();
        look(JSON.parse(event.data), kind);
      });
    }
    source.addEventListener("error", () => {
      // A stream that has ended is opened anew by the browser; one that was refused is not.
      if (source && source.readyState === EventSource.CLOSED) {
        timer = setTimeout(open, AGAIN);
      }
    });
  }

  function close() {
    clearTimeout(timer);
    clearTimeout(silent);
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
