// The live part of the pages. The server sends a look each 0.8 seconds (`told.py` says what is in it); this shows it.

import { Plot } from "./plot.js";
import { follow } from "./stream.js";
import { fill, hide, list, make, text } from "./table.js";
import { NOTHING, briefly, bytes, clock, compact, number, rate, span } from "./words.js";

const KEPT = 600; // Seconds of the past.
const { kind, events, base, session } = document.body.dataset;
const find = (selector) => document.querySelector(selector);
const pulse = find("#pulse");
const notice = find("#notice");

// Plots --------------------------------------------------------------------------------------------------

const SHAPES = {
  mapping: {
    rate: [[{ name: "rate", at: 1 }], { show: rate }],
    waiting: [[{ name: "waiting", at: 2 }], { show: compact }],
    oldest: [[{ name: "oldest", at: 3 }], { show: briefly, time: true }],
    running: [[{ name: "held", at: 4 }, { name: "running", at: 5 }], { show: compact }],
  },
  session: { running: [[{ name: "held", at: 1 }, { name: "running", at: 2 }], { show: compact }] },
};
const plots = Object.entries(SHAPES[kind] ?? {}).map(([name, shape]) => new Plot(find(`[data-plot=${name}]`), ...shape));
let points = [];

function plot(more, whole) {
  const last = whole ? -Infinity : points.at(-1)?.[0] ?? -Infinity;
  points = whole ? more : points.concat(more.filter((point) => point[0] > last));
  const since = (points.at(-1)?.[0] ?? 0) - KEPT;
  points = points.filter((point) => point[0] >= since);
  for (const each of plots) each.set(points);
}

// What is said in words ------------------------------------------------------------------------------------

function troubles(look) {
  const said = [];
  if (look.trouble) said.push(`Nothing new is known: ${look.trouble}.`);
  if (kind === "mapping" && look.seen && !look.trouble) {
    if (look.seen.paused) said.push("The mapping is paused: no session begins a task until it is resumed.");
    else if (look.seen.totals?.live && look.seen.totals.live === look.seen.totals.draining) said.push("All sessions that live are draining: no task is claimed.");
  }
  return said;
}

function say(lines, bad) {
  text(notice, lines.join(" "));
  notice.classList.toggle("bad", bad);
}

function badge(look) {
  const { seen } = look;
  const state = look.trouble ? "out of reach" : !seen ? "" : seen.paused ? "paused" : !seen.totals ? "" : seen.totals.live ? "running" : "no session";
  text(find("#state"), state === "paused" && seen.paused_since ? `paused for ${span(seen.at - seen.paused_since)}` : state);
  find("#state").className = `badge is-${state.replaceAll(" ", "-")}`;
}

function tile(name, value, more) {
  const node = find(`[data-tile=${name}]`);
  text(node.children[1], value);
  text(node.children[2], more);
}

function tiles({ seen, rate: done }) {
  const { backlog, totals, connections, state } = seen;
  const waiting = backlog ? number(backlog.tasks) + (backlog.more ? "+" : "") : NOTHING;
  tile("waiting", waiting, !backlog ? "left out" : backlog.oldest === null ? "nothing is due" : backlog.oldest < 1 ? "the oldest just now" : `the oldest for ${span(backlog.oldest)}`);
  tile("rate", rate(done), done === null ? "not known yet" : "by the server's counters");
  tile("running", number(totals?.running), totals ? `of ${number(totals.held)} held` : "left out");
  tile("sessions", number(totals?.live), !totals ? "left out" : totals.draining ? `${totals.draining} draining` : `room for ${number(totals.capacity)} tasks`);
  tile("connections", connections ? number(connections.used) : NOTHING, connections ? `of ${number(connections.most)}, ${number(connections.ours)} ours` : "left out");
  const vacuum = state?.last_autovacuum ? `vacuum ${briefly(seen.at - state.last_autovacuum)} ago` : "no vacuum yet";
  tile("rows", state ? compact(state.dead) : NOTHING, state ? `of ${compact(state.live + state.dead)}, ${bytes(state.size_bytes)}, ${vacuum}` : "left out");
}

// Tables -------------------------------------------------------------------------------------------------

// Running within held, against what it may hold.
function share({ running, held, target, capacity }) {
  return {
    make: () => make("span", "share", make("span", "bar", make("i", "held"), make("i", "running"), make("i", "target")), make("span", "figures")),
    update(node) {
      const most = Math.max(capacity, held, target, 1);
      const scale = Math.max(Math.min(most, Math.max(held, target) * 1.25), 1);
      const part = (value) => `${Math.min((100 * value) / scale, 100)}%`;
      const [bar, figures] = node.children;
      bar.children[0].style.width = part(held);
      bar.children[1].style.width = part(running);
      bar.children[2].style.left = part(target);
      text(figures, `${number(running)} / ${number(held)} / ${number(target)}`);
    },
  };
}

function pill(state) {
  return {
    make: () => make("span", "badge"),
    update(node) {
      text(node, state);
      node.className = `badge is-${state}`;
    },
  };
}

function sessions(seen) {
  hide(find("#sessions"), seen.sessions === null);
  fill(find("#sessions"), seen.sessions ?? [], (each) => each.session, (each) => [
    { text: String(each.session), href: `${base}sessions/${each.session}` },
    each.label || NOTHING,
    pill(each.state),
    share(each),
    each.beat_age === null ? NOTHING : `${briefly(each.beat_age)} ago`,
    lease(each),
    each.app_version || NOTHING,
    each.why,
  ]);
  text(find("#sessions").closest("section").querySelector(".more"), seen.more_sessions ? `${number(seen.more_sessions)} more are not shown.` : "");
}

function lease({ lease_left: left }) {
  return left === null ? NOTHING : left > 0 ? briefly(left) : `ended ${briefly(-left)} ago`;
}

function failures(seen) {
  const table = find("#failures");
  const told = seen.failures?.filter((each) => kind !== "session" || String(each.session) === session) ?? [];
  hide(table, seen.failures === null);
  fill(table, told, (each) => `${each.raw ?? each.key} ${each.attempt} ${each.at}`, (each) => [
    `${briefly(seen.at - each.at)} ago`,
    each.raw === null ? each.key : { text: each.key, href: `${base}task?${new URLSearchParams({ key: each.raw })}` },
    String(each.attempt),
    each.session === null ? NOTHING : String(each.session),
    each.error,
  ]);
}

const KINDS = { slot: "replication slot", prepared: "prepared transaction" };

function holders(seen) {
  hide(find("#holders"), seen.holders === null);
  fill(find("#holders"), seen.holders ?? [], (each) => `${each.kind} ${each.name}`, (each) => [
    KINDS[each.kind] ?? each.kind,
    each.name,
    each.since === null ? NOTHING : `${span(each.since)}${each.kind === "standby" ? " or more" : ""}`,
    number(each.transactions),
  ]);
}

function leftOut(seen) {
  const ul = find("#left-out");
  list(ul, seen.left_out);
  ul.closest("section").hidden = seen.left_out.length === 0;
}

// Pages --------------------------------------------------------------------------------------------------

const SHOW = {
  mapping(look, how) {
    badge(look);
    say(troubles(look), Boolean(look.trouble));
    plot(look.points, how === "whole");
    if (!look.seen) return;
    tiles(look);
    sessions(look.seen);
    failures(look.seen);
    holders(look.seen);
    leftOut(look.seen);
  },

  session(look, how) {
    plot(look.points, how === "whole");
    const own = look.seen?.sessions?.find((each) => String(each.session) === session);
    const said = troubles(look);
    const known = Boolean(look.seen?.sessions);
    if (look.seen && !known && !look.trouble) said.push("What it does is not known: below is why.");
    if (known && !own && !look.trouble) said.push("It has ended: what is shown is what was seen last.");
    say(said, Boolean(look.trouble));
    if (!look.seen) return;
    failures(look.seen);
    leftOut(look.seen);
    const facts = own && {
      Label: own.label || NOTHING,
      State: own.state,
      Running: number(own.running),
      Held: number(own.held),
      Target: number(own.target),
      Capacity: number(own.capacity),
      "Last keepalive": own.beat_age === null ? NOTHING : `${span(own.beat_age)} ago`,
      "Lease runs for": own.lease_left === null ? NOTHING : own.lease_left > 0 ? span(own.lease_left) : `it ended ${span(-own.lease_left)} ago`,
      Version: own.app_version || NOTHING,
      "Why it got no more": own.why,
    };
    const unknown = () => Object.fromEntries([...document.querySelectorAll("[data-fact]")].map((each) => [each.dataset.fact, NOTHING]));
    for (const [name, value] of Object.entries(facts ?? (known ? { State: "ended" } : unknown()))) text(find(`[data-fact="${name}"]`), value);
  },

  all(looks) {
    for (const look of looks) {
      const card = [...document.querySelectorAll("[data-mapping]")].find((each) => each.dataset.mapping === look.mapping);
      const waiting = look.backlog ? `${number(look.backlog.tasks)}${look.backlog.more ? "+" : ""} wait` : "what waits is not known";
      const state = look.trouble
        ? `Nothing new is known: ${look.trouble}.`
        : `${look.paused ? "paused, " : ""}${look.totals ? `${number(look.totals.live)} session${look.totals.live === 1 ? "" : "s"}, ${number(look.totals.running)} running` : "sessions are not known"}, ${waiting}, ${rate(look.rate)}/s`;
      text(card.querySelector(".summary"), state);
      card.classList.toggle("bad", Boolean(look.trouble));
    }
  },
};

follow(events, {
  look(look, how) {
    SHOW[kind](look, how);
    if (look.seen?.at && !look.trouble) text(pulse, `live, ${clock(look.seen.at)}`);
    if (look.trouble) text(pulse, "asking again");
    pulse.classList.toggle("is-live", !look.trouble);
    if (!document.body.dataset.seen) {
      document.body.dataset.seen = "1";
      performance.mark("first look");
    }
  },
  lost(refusal) {
    text(pulse, "no answer");
    pulse.classList.remove("is-live");
    say([refusal ?? "The server of this page does not answer: what is shown is old. It is asked again and again."], true);
  },
  back() {
    text(pulse, "reading ..");
    say([], false);
  },
  again() {
    if (kind === "all") {
      text(pulse, "live");
      say([], false);
    }
  },
});
