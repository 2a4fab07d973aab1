// Parts of the page that are filled again and again. What has not changed is left alone, so that focus and selection stay;
// all text is set as text, never as HTML.

export function text(node, value) {
  if (node && node.textContent !== value) node.textContent = value;
}

export function make(name, className, ...children) {
  const node = document.createElement(name);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

// A cell is a text; or { text, href }, which is a link; or { node, update }, which looks after itself.
function write(cell, content) {
  if (typeof content === "string") {
    text(cell, content);
    return;
  }
  if (content.href) {
    let link = cell.querySelector("a");
    if (!link) {
      link = document.createElement("a");
      cell.replaceChildren(link);
    }
    text(link, content.text);
    if (link.getAttribute("href") !== content.href) link.setAttribute("href", content.href);
    return;
  }
  if (!cell.firstElementChild) cell.replaceChildren(content.make());
  content.update(cell.firstElementChild);
}

// One row for each of `items`, in their order; `key` tells which row was whose.
export function fill(table, items, key, cells) {
  const section = table.closest("section");
  const body = table.tBodies[0];
  const classes = [...table.tHead.rows[0].cells].map((cell) => cell.className);
  const before = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  const times = new Map();
  items.forEach((item, index) => {
    // Of those that are called the same each has a row of its own.
    const called = String(key(item));
    times.set(called, (times.get(called) ?? 0) + 1);
    const name = `${called}\n${times.get(called)}`;
    let row = before.get(name);
    if (row) {
      before.delete(name);
    } else {
      row = document.createElement("tr");
      row.dataset.key = name;
      for (const className of classes) row.append(make("td", className));
    }
    if (body.rows[index] !== row) body.insertBefore(row, body.rows[index] ?? null);
    cells(item).forEach((content, column) => write(row.cells[column], content));
  });
  for (const row of before.values()) row.remove();
  table.closest(".scroll").hidden = items.length === 0;
  const nothing = section.querySelector(".nothing");
  if (nothing) nothing.hidden = items.length > 0;
}

// A section whose part was left out has nothing to show, and says so elsewhere.
export function hide(table, hidden) {
  table.closest("section").hidden = hidden;
}

export function list(ul, lines) {
  lines.forEach((line, index) => {
    const item = ul.children[index] ?? ul.appendChild(document.createElement("li"));
    text(item, line);
  });
  while (ul.children.length > lines.length) ul.lastElementChild.remove();
}
