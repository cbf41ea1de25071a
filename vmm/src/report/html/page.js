// The drawing of two address spaces beside each other. What is drawn stands in the page as JSON; see `picture.rs` for its keys.
// Addresses are BigInt throughout: a number has 53 bits.
"use strict";

const PAGE = 4096n;
/** Views that have a button each; more are a list. */
const MOST_SIDE_BY_SIDE = 5;
const SVG = "http://www.w3.org/2000/svg";

const picture = JSON.parse(document.getElementById("picture").textContent);
const views = picture.views.map(readView);
const places = picture.places.map((place) => ({
  ...place,
  first: place.at === undefined ? undefined : BigInt(place.at),
  end: place.at === undefined ? undefined : BigInt(place.at) + BigInt(place.pages ?? 1) * PAGE,
}));

/** What is looked at. */
const state = {
  view: undefined,
  isEven: true,
  /** The part of each column that is shown: where it begins, and how much of the column's height it is. */
  windows: [{ top: 0, span: 1 }, { top: 0, span: 1 }],
  /** {column, block, address} of what is selected. */
  chosen: undefined,
  /** The list's item that is selected. */
  item: undefined,
};

const stage = document.getElementById("stage");
const search = document.getElementById("search");

function start() {
  // A campaign that found nothing has nothing to draw.
  if (!views.length) return document.body.classList.add("undrawn");
  makeViewChoice();
  listen();
  show(0);
  new ResizeObserver(draw).observe(stage);
}

/** Chooses a view, and shows all of it. */
function show(index) {
  state.view = views[index];
  state.chosen = undefined;
  state.axes = axesOf(state.view, state.isEven);
  state.windows = state.axes.map((axis) => ({ top: 0, span: axis.height }));
  document.querySelectorAll("#views input").forEach((input, nth) => (input.checked = nth === index));
  document.querySelectorAll("#views select").forEach((select) => (select.value = String(index)));
  makeLegend();
  makeRegions();
  draw();
}

// ---------------------------------------------------------------------------------------------------------------------------
// What is drawn

/** A view with its blocks as objects that know where they are. */
function readView(view) {
  const regions = picture.maps[view.map];
  const maps = [regions, picture.maps[view.right_map ?? view.map]];
  const read = (column) => (block, index) => {
    const region = block.region === undefined ? undefined : maps[column][block.region];
    const first = BigInt(block.at ?? region.phys);
    const pages = BigInt(block.pages ?? region.pages);
    const end = clip((first & ~(PAGE - 1n)) + pages * PAGE + (first % PAGE ? PAGE : 0n));
    const to = block.to === undefined ? undefined : BigInt(block.to);
    return { ...block, column, index, first, end, to, descriptor: region, kind: picture.kinds[block.kind ?? region.kind] };
  };
  const columns = [view.left.map(read(0)), view.right.map(read(1))];
  for (const blocks of columns) {
    blocks.sort((one, other) => compare(one.first, other.first) || compare(other.end, one.end));
    blocks.forEach((block, index) => (block.index = index));
    setLanes(blocks);
  }
  return { ...view, regions, blocks: columns, tables: view.tables && readTables(view.tables) };
}

/** Nothing lies past the last address. */
function clip(end) {
  return end > 1n << 64n ? 1n << 64n : end;
}

function compare(one, other) {
  return one < other ? -1 : one > other ? 1 : 0;
}

/** Blocks that overlap stand beside each other. */
function setLanes(blocks) {
  const ends = [];
  for (const block of blocks) {
    const free = ends.findIndex((end) => end <= block.first);
    block.lane = free === -1 ? ends.length : free;
    ends[block.lane] = block.end;
  }
}

// ---------------------------------------------------------------------------------------------------------------------------
// Axes: from addresses to heights

/** One column's addresses in segments, each of a height; what nothing covers is a segment of its own, a gap. */
class Axis {
  constructor(blocks, isMapped, isEven) {
    this.segments = segmentsOf(blocks);
    const mapped = this.segments.filter((segment) => segment.covered && isMapped(segment));
    const scaled = mapped.reduce((sum, segment) => sum + Number(segment.end - segment.first), 0);
    // To scale, a gap and what is not mapped are cut: else all that matters would be a line in an empty drawing.
    const most = Math.max(scaled / 16, Number(PAGE));
    const heightOf = (segment) => {
      const bytes = Number(segment.end - segment.first);
      if (isEven) return segment.covered ? 2 + Math.log2(Math.max(bytes / Number(PAGE), 1)) : 3;
      if (!segment.covered) return most / 2;
      return isMapped(segment) ? bytes : Math.min(bytes, most);
    };
    this.height = 0;
    /** Where segments begin that are not to scale. */
    this.cuts = new Set();
    for (const segment of this.segments) {
      segment.top = this.height;
      segment.height = heightOf(segment);
      if (segment.covered && !isEven && segment.height < Number(segment.end - segment.first)) this.cuts.add(segment.first);
      this.height += segment.height;
    }
    this.height ||= 1;
  }

  /** The height at which an address lies. */
  heightAt(address) {
    const { segments } = this;
    if (!segments.length || address <= segments[0].first) return 0;
    const nth = Math.min(firstIndex(segments, (segment) => segment.end > address), segments.length - 1);
    const segment = segments[nth];
    const part = Number(address - segment.first) / Number(segment.end - segment.first);
    return segment.top + segment.height * Math.min(part, 1);
  }

  /** The address at a height, and its segment. */
  addressAt(height) {
    const { segments } = this;
    if (!segments.length) return undefined;
    const nth = Math.min(firstIndex(segments, (segment) => segment.top + segment.height > height), segments.length - 1);
    const segment = segments[nth];
    const part = Math.min(Math.max((height - segment.top) / segment.height, 0), 1 - 1e-12);
    const bytes = segment.end - segment.first;
    // In two steps: a product of a fraction and many bytes has no exact pages.
    const offset = (bytes * BigInt(Math.floor(part * 2 ** 52))) >> 52n;
    return { address: segment.first + offset, segment };
  }
}

/** The segments between all borders of some blocks. */
function segmentsOf(blocks) {
  const borders = [];
  for (const block of blocks) if (block.first < block.end) borders.push([block.first, 1], [block.end, -1]);
  borders.sort((one, other) => compare(one[0], other[0]));
  const segments = [];
  let open = 0;
  let since;
  for (const [at, step] of borders) {
    if (since !== undefined && since < at) segments.push({ first: since, end: at, covered: open > 0 });
    open += step;
    since = at;
  }
  return segments;
}

/** The first index at which something holds, of an array in which it holds from there on. */
function firstIndex(array, holds) {
  let [low, high] = [0, array.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (holds(array[middle])) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** Both axes of a view. What the kernel maps for itself says nothing of the map. */
function axesOf(view, isEven) {
  const targets = view.blocks[0].filter((block) => block.to !== undefined && block.kind.class !== "kernel");
  const reached = segmentsOf(targets.map((block) => ({ first: block.to, end: block.to + (block.end - block.first) })));
  const covered = reached.filter((segment) => segment.covered);
  const isReached = ({ first, end }) => {
    const next = covered[firstIndex(covered, (segment) => segment.end > first)];
    return next !== undefined && next.first < end;
  };
  return [new Axis(view.blocks[0], () => true, isEven), new Axis(view.blocks[1], isReached, isEven)];
}

// ---------------------------------------------------------------------------------------------------------------------------
// Drawing

/** Where things stand on the stage, in pixels. */
function frame() {
  const width = Math.max(stage.clientWidth, 300);
  const height = Math.max(stage.clientHeight, 200);
  const label = width < 620 ? 0 : 138;
  const column = Math.min(Math.max(width * 0.24, 90), 260);
  const gutter = 26;
  return { width, height, label, column, x: [label + gutter, width - label - gutter - column] };
}

function draw() {
  const place = frame();
  const svg = element("svg", { width: place.width, height: place.height, "aria-hidden": "true" });
  svg.append(textures());
  svg.classList.toggle("choosing", state.chosen !== undefined);
  const layers = ["ribbons", "blocks", "marks", "labels"].map((name) => element("g", { class: name }));
  svg.append(...layers);
  const [ribbons, blocks, marks, labels] = layers;
  drawRibbons(ribbons, place);
  for (const column of [0, 1]) {
    drawGaps(blocks, column, place);
    drawBlocks(blocks, labels, column, place);
    drawMarks(marks, column, place);
    drawPin(marks, column, place);
  }
  stage.replaceChildren(svg);
}

/** The pixel at which an address of a column lies. */
function pixel(column, address, place) {
  const { top, span } = state.windows[column];
  return ((state.axes[column].heightAt(address) - top) / span) * place.height;
}

function extent(column, first, end, place) {
  return [pixel(column, first, place), pixel(column, end, place)];
}

function pageOf(address) {
  return address & ~(PAGE - 1n);
}

function isOutside([from, to], place) {
  return to < -1 || from > place.height + 1;
}

/** What leads where. Of those that begin and end at the same pixels one is drawn. */
function drawRibbons(layer, place) {
  const [from, to] = [place.x[0] + place.column, place.x[1]];
  const drawn = new Set();
  const related = relatedTo(state.chosen);
  for (const block of state.view.blocks[0]) {
    if (block.to === undefined) continue;
    const left = extent(0, block.first, block.end, place);
    const right = extent(1, block.to, block.to + (block.end - block.first), place);
    if (isOutside(left, place) && isOutside(right, place)) continue;
    const isChosen = related.has(block);
    const key = `${Math.round(left[0] / 2)} ${Math.round(right[0] / 2)}`;
    const isThin = left[1] - left[0] < 2 && right[1] - right[0] < 2;
    if (isThin && drawn.has(key) && !isChosen) continue;
    drawn.add(key);
    const [top, bottom] = [left[0], Math.max(left[1], left[0] + 1)];
    const [topRight, bottomRight] = [right[0], Math.max(right[1], right[0] + 1)];
    const middle = (from + to) / 2;
    const path =
      `M${from} ${round(top)}C${middle} ${round(top)} ${middle} ${round(topRight)} ${to} ${round(topRight)}` +
      `V${round(bottomRight)}C${middle} ${round(bottomRight)} ${middle} ${round(bottom)} ${from} ${round(bottom)}Z`;
    const ribbon = element("path", { d: path, class: `ribbon ${block.kind.class}` });
    ribbon.classList.toggle("same", block.to === block.first);
    ribbon.classList.toggle("chosen", isChosen);
    if (block.change) ribbon.classList.add(`change-${block.change}`);
    isChosen ? layer.append(ribbon) : layer.prepend(ribbon);
  }
}

/** A hundredth of a pixel is enough, and far outside of the stage anything is. */
function round(pixels) {
  return Math.round(Math.min(Math.max(pixels, -1e5), 1e5) * 100) / 100;
}

/** Where an axis is broken: a gap with its size. */
function drawGaps(layer, column, place) {
  const x = place.x[column];
  for (const segment of state.axes[column].segments) {
    if (segment.covered) continue;
    const [top, bottom] = extent(column, segment.first, segment.end, place);
    if (bottom < 0 || top > place.height || bottom - top < 3) continue;
    const gap = element("g", { class: "gap" });
    const [center, middle] = [x + place.column / 2, (Math.max(top, 0) + Math.min(bottom, place.height)) / 2];
    const isNamed = bottom - top >= 11;
    const ends = isNamed ? [middle - 7, middle + 7] : [middle, middle];
    gap.append(element("path", { d: `M${center} ${round(top)}V${round(ends[0])}M${center} ${round(ends[1])}V${round(bottom)}` }));
    if (isNamed) gap.append(label(center, middle + 4, gapName(segment, column), "middle"));
    layer.append(gap);
  }
}

/** A gap's size, and whether most of it is what no address can be (SDM vol. 1, 3.3.7.1). */
function gapName({ first, end }, column) {
  const half = halfOf(state.view.tables);
  const isHole = state.view.columns[column].startsWith("virtual") && first <= half && end >= (1n << 64n) - half;
  return `gap of ${size(end - first)}${isHole ? ", most of it not canonical" : ""}`;
}

/** The blocks of a column. Of those that fall on the same pixel one is drawn. */
function drawBlocks(layer, labels, column, place) {
  const related = relatedTo(state.chosen);
  const outer = column === 0 ? place.x[0] - 24 : place.x[1] + place.column + 24;
  const anchor = column === 0 ? "end" : "start";
  let [lastRow, lastLabel] = [undefined, -100];
  for (const block of state.view.blocks[column]) {
    const [top, bottom] = extent(column, block.first, block.end, place);
    if (isOutside([top, bottom], place)) continue;
    const isChosen = related.has(block);
    const row = `${Math.floor(top)} ${block.lane}`;
    if (bottom - top < 1 && row === lastRow && !isChosen) continue;
    lastRow = row;
    layer.append(drawnBlock(block, top, bottom, isChosen, place));
    const at = Math.max(top, 0);
    if (place.label && at - lastLabel >= 13 && at < place.height - 11) {
      labels.append(label(outer, at + 10, hex(at > top ? pageOf(addressOfPixel(column, 0, place)) : block.first), anchor, "address"));
      lastLabel = at;
    }
  }
}

function drawnBlock(block, top, bottom, isChosen, place) {
  const shift = Math.min(block.lane, 6) * 14;
  const [x, width] = [place.x[block.column] + shift, place.column - shift];
  // What lies far outside of the stage is not drawn: browsers are exact only for so many pixels.
  const [from, to] = [Math.max(top, -20), Math.min(bottom, place.height + 20)];
  const box = { x, y: round(from), width, height: round(Math.max(to - from, 1)) };
  const known = { class: `block ${block.kind.class}`, "data-block": `${block.column} ${block.index}` };
  // Thousands of them are drawn at once: a line, and nothing in it.
  if (box.height < 3 && !isChosen) return element("rect", { ...box, ...known });
  const group = element("g", known);
  group.classList.toggle("chosen", isChosen);
  group.classList.toggle("planned", block.planned === true);
  group.classList.toggle("defect", block.defect !== undefined);
  if (block.change) group.classList.add(`change-${block.change}`);
  group.append(element("rect", { ...box, class: "body" }));
  if (block.rights) {
    group.append(element("rect", { ...box, class: "texture", fill: `url(#rights-${texture(block.rights)})` }));
  }
  if (block.leaf) {
    group.append(element("rect", { ...box, x: x + width - 8, width: 8, class: "texture", fill: `url(#leaf-${block.leaf})` }));
  }
  if (box.height >= 8 && state.axes[block.column].cuts.has(block.first)) {
    group.append(element("path", { class: "cut", d: zigzag(x, width, box.y + box.height / 2) }));
  }
  group.append(...drawnLeaves(block, top, bottom, x, width, place));
  if (box.height >= 12) {
    const inside = Math.min(Math.max(from, 0) + 11, to);
    group.append(label(x + 5, inside, nameOf(block), "start", "name"));
  }
  group.append(titled(describe(block)));
  return group;
}

/** A line at each leaf's border, where leaves are high enough to be told apart. */
function drawnLeaves(block, top, bottom, x, width, place) {
  const bytes = { "4K": PAGE, "2M": PAGE << 9n, "1G": PAGE << 18n }[block.leaf];
  if (bytes === undefined) return [];
  const height = ((bottom - top) * Number(bytes)) / Number(block.end - block.first);
  if (height < 5) return [];
  const drawn = [];
  const skipped = BigInt(Math.max(Math.floor(-top / height), 0));
  for (let leaf = block.first + skipped * bytes, y = top + Number(skipped) * height; leaf < block.end; leaf += bytes, y += height) {
    if (y > place.height) break;
    if (leaf > block.first) drawn.push(element("path", { class: "leaf", d: `M${x} ${round(y)}h${width}` }));
    const isNamed = height >= 15 && (leaf > block.first || skipped > 0n);
    if (isNamed) drawn.push(label(x + width - 12, y + 11, hex(leaf), "end", "leaf-address"));
  }
  return drawn;
}

function zigzag(x, width, y) {
  let path = `M${x} ${round(y)}`;
  for (let step = 0; step * 8 < width; step += 1) path += `l4 ${step % 2 ? 4 : -4}`.concat(`l4 ${step % 2 ? -4 : 4}`);
  return path;
}

/** The places of the list's items, at the outer side of a column. */
function drawMarks(layer, column, place) {
  const x = column === 0 ? place.x[0] - 8 : place.x[1] + place.column + 4;
  const viewIndex = views.indexOf(state.view);
  const numbered = [];
  places.forEach((item, index) => {
    if (item.view !== viewIndex || item.column !== column || item.first === undefined) return;
    const [top, bottom] = extent(column, item.first, item.end, place);
    if (isOutside([top, bottom], place)) return;
    const [from, to] = [Math.max(top, -20), Math.min(bottom, place.height + 20)];
    const mark = element("g", { class: "mark", "data-item": index });
    mark.classList.toggle("chosen", state.item === index);
    mark.append(element("rect", { x, y: round(from), width: 4, height: round(Math.max(to - from, 3)) }));
    const y = Math.min(Math.max((Math.max(from, 0) + Math.min(to, place.height)) / 2, 8), place.height - 8);
    if (state.item === index || numbered.every((taken) => Math.abs(y - taken) >= 17)) {
      const middle = column === 0 ? x - 8 : x + 12;
      mark.append(element("circle", { cx: middle, cy: round(y), r: 8 }), label(middle, y + 4, String(index + 1), "middle"));
      numbered.push(y);
    }
    mark.append(titled(titleOfItem(index)));
    layer.append(mark);
  });
}

/** Where the selected page is, and what it leads to. */
function drawPin(layer, column, place) {
  if (!state.chosen) return;
  const { block, address } = state.chosen;
  const at = block.column === column ? address : partnerOf(block, address);
  if (at === undefined) return;
  const [top, bottom] = extent(column, at, at + PAGE, place);
  if (isOutside([top, bottom], place)) return;
  const box = { x: place.x[column] - 2, y: round(top), width: place.column + 4, height: round(Math.max(bottom - top, 1.5)) };
  layer.append(element("rect", { ...box, class: "pin" }));
}

/** Rights as hatching, sizes of leaves as a comb at a block's inner edge. */
function textures() {
  const patterns = {
    "rights-r": [6, 6, "M1 1h1.5"],
    "rights-x": [8, 8, "M-1 9L9 -1M-2 2L2 -2M6 10L10 6"],
    "rights-wx": [8, 8, "M-1 9L9 -1M-2 2L2 -2M6 10L10 6M-1 -1L9 9M6 -2L10 2M-2 6L2 10"],
    "leaf-4K": [8, 3, "M4 0.5h4"],
    "leaf-2M": [8, 7, "M2 1h6M2 2h6"],
    "leaf-1G": [8, 8, "M1 0h7M1 1h7M1 2h7M1 3h7M1 4h7M1 5h7M1 6h7"],
  };
  const defs = element("defs");
  for (const [id, [width, height, d]] of Object.entries(patterns)) {
    const pattern = element("pattern", { id, width, height, patternUnits: "userSpaceOnUse" });
    pattern.append(element("path", { d }));
    defs.append(pattern);
  }
  return defs;
}

function texture(rights) {
  const [isWritable, isExecutable] = [rights.includes("W"), rights.includes("X")];
  return isWritable && isExecutable ? "wx" : isExecutable ? "x" : isWritable ? "w" : "r";
}

// ---------------------------------------------------------------------------------------------------------------------------
// Words

/** A block's name: its type and its place in the map. */
function nameOf(block) {
  if (block.defect) return "nothing translates";
  const number = block.region === undefined ? "" : `#${block.region} `;
  const change = block.change ? ` · ${block.change}` : "";
  return `${number}${block.kind.name}${change}`;
}

/** A block in a sentence, for tips and for who hears the page. */
function describe(block) {
  const words = [`${state.view.columns[block.column]} ${rangeOf(block)}, ${size(block.end - block.first)}: ${nameOf(block)}`];
  if (block.defect) words.push(block.defect);
  if (block.planned) words.push(state.view.tables ? "nothing is mapped here" : "where it is to go");
  if (block.to !== undefined) words.push(block.to === block.first ? "mapped 1:1" : `leads to ${hex(block.to)}`);
  if (block.leaf) words.push(`leaves of ${block.leaf}`);
  if (block.rights) words.push(`rights ${block.rights}`);
  if (block.cache) words.push(block.cache);
  return words.join(", ");
}

function rangeOf({ first, end }) {
  return `${hex(first)}–${hex(end - 1n)}`;
}

function hex(number) {
  return `0x${number.toString(16)}`;
}

/** `12 KiB`, or with a digit behind the point where it is not exact. */
function size(bytes) {
  const units = [["EiB", 60n], ["PiB", 50n], ["TiB", 40n], ["GiB", 30n], ["MiB", 20n], ["KiB", 10n]];
  const exact = units.find(([, shift]) => bytes >> shift > 0n && bytes % (1n << shift) === 0n && bytes >> shift < 10000n);
  if (exact) return `${bytes >> exact[1]} ${exact[0]}`;
  const [unit, shift] = units.find(([, shift]) => bytes >> shift > 0n) ?? ["bytes", 0n];
  const tenths = (bytes * 10n) >> shift;
  return `${tenths / 10n}.${tenths % 10n} ${unit}`;
}

function titleOfItem(index) {
  return document.querySelector(`[data-item="${index}"] button`).textContent;
}

// ---------------------------------------------------------------------------------------------------------------------------
// Walks

function readTables(tables) {
  const list = new Map(tables.list.map((table) => [`${table.level} ${table.at}`, table]));
  return { ...tables, list };
}

/** The walk of an address: the entry of each level, and how it ends. */
function walk(tables, address) {
  const ADDRESS = 0x000ffffffffff000n;
  const half = halfOf(tables);
  const steps = [];
  if (address >= half && address < (1n << 64n) - half) return { steps, end: "The address is not canonical." };
  let at = BigInt(tables.root) & ADDRESS;
  for (let level = tables.top; level >= 1; level -= 1) {
    const table = tables.list.get(`${level} ${hex(at)}`);
    if (table === undefined) return { steps, end: `The table at ${hex(at)} is not in this page: there are too many tables.` };
    if (table.runs === undefined) return { steps, end: `No memory is at the table ${hex(at)}.` };
    const step = entryOf(table, level, address);
    steps.push(step);
    if (step.why !== undefined) return { steps, end: `Reserved bits are set: ${step.why}.` };
    if (!(step.entry & 1n)) return { steps, end: `Nothing translates: the ${step.name} is not present.` };
    if (step.isLeaf) {
      const mask = spanOf(level) - 1n;
      return { steps, to: (step.entry & ADDRESS & ~mask) | (address & mask) };
    }
    at = step.entry & ADDRESS;
  }
  return { steps, end: "" };
}

/** Where the lower half of the addresses ends: after 47 bits with 4 levels. */
function halfOf(tables) {
  return 1n << BigInt((tables?.top ?? 4) * 9 + 11);
}

function spanOf(level) {
  return 1n << BigInt(level * 9 + 3);
}

function entryOf(table, level, address) {
  const index = Number((address / spanOf(level)) & 511n);
  const run = table.runs.find(([first, count]) => first <= index && index < first + count);
  let entry = run === undefined ? 0n : BigInt(run[2]);
  const isLeafOf = (value) => level === 1 || (level <= 3 && (value & 0x80n) !== 0n);
  if (run) entry += BigInt(index - run[0]) * (isLeafOf(entry) ? spanOf(level) : PAGE);
  const isLeaf = isLeafOf(entry);
  const reserved = run?.[3] === undefined ? 0n : BigInt(run[3]);
  const why = run?.[4] === undefined ? undefined : state.view.tables.reasons[run[4]];
  const named = picture.bits[level][isLeaf ? 0 : 1].filter(([bit]) => (entry >> BigInt(bit)) & 1n);
  return { level, name: picture.levels[level], index, at: BigInt(table.at) + BigInt(index) * 8n, entry, isLeaf, reserved, why, named };
}

/** What all levels grant together (SDM 3A 4.6): W and U if every entry has it, X if none has NX. */
function granted(steps) {
  const all = (bit) => steps.every((step) => (step.entry >> BigInt(bit)) & 1n);
  const isExecutable = steps.every((step) => !(step.entry >> 63n));
  return `R${all(1) ? "W" : "-"}${isExecutable ? "X" : "-"}${all(2) ? "U" : "-"}`;
}

// ---------------------------------------------------------------------------------------------------------------------------
// What is selected

/** The block of a column that an address lies in: of several the one that begins there, or the smallest. */
function blockAt(column, address) {
  const inside = state.view.blocks[column].filter((block) => block.first <= address && address < block.end);
  const begins = inside.find((block) => block.first === address);
  return begins ?? inside.sort((one, other) => compare(one.end - one.first, other.end - other.first))[0];
}

/** All blocks that have to do with what is selected: its own, and those that lead to the same bytes. */
function relatedTo(chosen) {
  if (!chosen) return new Set();
  if (chosen.related) return chosen.related;
  const related = new Set([chosen.block]);
  const target = chosen.block.column === 1 ? chosen.block : targetOf(chosen.block);
  if (target) {
    const [left, right] = state.view.blocks;
    for (const block of left) if (block.to !== undefined && overlap(targetOf(block), target)) related.add(block);
    for (const block of right) if (overlap(block, target)) related.add(block);
  }
  chosen.related = related;
  return related;
}

function targetOf(block) {
  return block.to === undefined ? undefined : { first: block.to, end: block.to + (block.end - block.first) };
}

function overlap(one, other) {
  return one.first < other.end && other.first < one.end;
}

/** Selects the page at an address of a block. */
function choose(block, address = block.first, item = undefined) {
  const page = (pageOf(address)) < block.first ? block.first : pageOf(address);
  state.chosen = { column: block.column, block, address: page };
  state.item = item;
  markItem();
  showChosen();
  reveal(block, page);
}

function unchoose() {
  state.chosen = undefined;
  state.item = undefined;
  markItem();
  document.getElementById("selected").replaceChildren(html("p", { class: "hint" }, "Nothing is selected."));
  document.getElementById("walk").replaceChildren();
  document.getElementById("status").textContent = "";
  markRegion(undefined);
  draw();
}

/** The other column's address for one of a block. */
function partnerOf(block, address) {
  if (block.column === 0) return block.to === undefined ? undefined : block.to + (address - block.first);
  return virtualOf(address)[0]?.address;
}

/** The virtual addresses of a physical one, the kernel's own last, since they are not about the map. */
function virtualOf(physical) {
  const leading = state.view.blocks[0].filter((block) => block.to !== undefined && block.to <= physical && physical < targetOf(block).end);
  const rank = (block) => (block.kind.class === "kernel" ? 2 : block.to === block.first ? 1 : 0);
  leading.sort((one, other) => rank(one) - rank(other));
  return leading.map((block) => ({ block, address: block.first + (physical - block.to) }));
}

function showChosen() {
  const { block, address } = state.chosen;
  document.getElementById("status").textContent = describe(block);
  const region = block.descriptor;
  const rows = [[state.view.columns[block.column], `${rangeOf(block)}, ${size(block.end - block.first)}`]];
  if (block.to !== undefined) rows.push([state.view.columns[1], rangeOf(targetOf(block)) + (block.to === block.first ? " (1:1)" : "")]);
  if (block.leaf) rows.push(["leaves", [block.leaf, block.rights, block.cache].filter(Boolean).join(", ")]);
  if (block.defect) rows.push(["but", block.defect]);
  if (block.planned) rows.push(["but", state.view.tables ? "the tables have nothing here" : "no tables were made: this is where it is to go"]);
  if (region) {
    const pages = BigInt(region.pages);
    rows.push(["descriptor", `${region.phys}, ${pages} page${pages === 1n ? "" : "s"}, ${size(pages * PAGE)}${region.line ? `, line ${region.line}` : ""}`]);
    rows.push(["attributes", region.attribute || "none"], ["verdict", region.verdict]);
  }
  const list = html("dl", {}, ...rows.map(([name, value]) => html("div", {}, html("dt", {}, name), html("dd", {}, value))));
  const swatch = block.defect ? "untranslated" : block.kind.class;
  document.getElementById("selected").replaceChildren(html("h3", { class: `swatch ${swatch}` }, nameOf(block)), list);
  const how = block.column === 0 ? walkOf(address) : waysTo(address);
  document.getElementById("walk").replaceChildren(...how, ...saidOf(block.column, address));
  markRegion(block.region);
}

/** What the list says of a page. That a walk arrives does not make it right. */
function saidOf(column, address) {
  const viewIndex = views.indexOf(state.view);
  const isAbout = (item) => item.view === viewIndex && item.column === column && item.first < address + PAGE && address < item.end;
  return places.flatMap((item, index) => (item.first !== undefined && isAbout(item) ? [index] : [])).map((index) =>
    html("p", { class: "wrong said" }, `${index + 1}. ${titleOfItem(index)}`),
  );
}

/** Of a physical page: the virtual addresses that lead to it. */
function waysTo(address) {
  const ways = virtualOf(address).map((way) => {
    const button = html("button", { type: "button" }, `${hex(way.address)}  ${way.block.kind.class === "kernel" ? "the kernel's own" : ""}`);
    button.addEventListener("click", () => choose(way.block, way.address));
    return html("li", {}, button);
  });
  const title = html("h3", {}, `${state.view.columns[1]} ${hex(address)} `, ...pageButtons());
  if (!ways.length) return [title, html("p", {}, "No address of the other column leads to this page.")];
  const where = state.view.right_map === undefined ? "It is at:" : "Before, it was at:";
  return [title, html("p", {}, where), html("ul", { class: "ways" }, ...ways)];
}

/** Of a virtual page: the walk, entry by entry. */
function walkOf(address) {
  const { tables } = state.view;
  const title = html("h3", {}, `${tables ? "Walk of" : "Page"} ${hex(address)} `, ...pageButtons());
  if (!tables) return [title, html("p", {}, "There are no tables to walk in this view.")];
  const { steps, end, to } = walk(tables, address);
  const rows = steps.flatMap(stepRows);
  const head = html("tr", {}, ...["entry", "at", "value", "bits"].map((name) => html("th", { scope: "col" }, name)));
  const parts = [title, html("table", { class: "walk" }, html("thead", {}, head), html("tbody", {}, ...rows))];
  const note = html("p", { class: "hint" }, "The entries are as the mapping code left them, before the CPU set A and D bits.");
  if (to === undefined) return [...parts, html("p", { class: "wrong" }, end), note];
  const others = virtualOf(to).filter((way) => way.address !== address).map((way) => hex(way.address));
  const aliases = others.length ? ` The same page is at ${others.join(" and ")}.` : "";
  return [...parts, html("p", { class: "arrives" }, `It reaches ${hex(to)}; all levels together grant ${granted(steps)}.${aliases}`), note];
}

function stepRows(step) {
  const { name, index, at, entry, reserved, named, isLeaf } = step;
  const names = named.map(([bit, short]) => html("abbr", { title: `bit ${bit}` }, short));
  const leads = !(entry & 1n) ? "not present" : isLeaf ? `maps ${size(spanOf(step.level))}` : "table";
  const cells = [`${name} ${index}`, hex(at), `0x${entry.toString(16).padStart(16, "0")}`].map((text) => html("td", {}, text));
  const first = html("tr", { class: reserved ? "reserved" : "" }, ...cells, html("td", {}, ...names, html("span", { class: "leads" }, leads)));
  return [first, html("tr", { class: "bits" }, html("td", { colspan: "4" }, ...bitsOf(entry, reserved)))];
}

/** All 64 bits, in groups of four, the reserved ones marked. */
function bitsOf(entry, reserved) {
  const parts = [];
  let text = "";
  for (let bit = 63n; bit >= 0n; bit -= 1n) {
    const digit = String((entry >> bit) & 1n);
    if ((reserved >> bit) & 1n) {
      parts.push(text, html("mark", { title: `bit ${bit}` }, digit));
      text = "";
    } else text += digit;
    if (bit % 4n === 0n) text += bit === 32n ? "  " : " ";
  }
  return [...parts, text];
}

/** To the page before and after. */
function pageButtons() {
  return [["◂", -1n, "The page before (Page Up)"], ["▸", 1n, "The page after (Page Down)"]].map(([text, by, title]) => {
    const button = html("button", { type: "button", title, "aria-label": title, class: "step" }, text);
    button.addEventListener("click", () => turnPage(by));
    return button;
  });
}

function turnPage(by) {
  if (!state.chosen) return;
  const { block, address } = state.chosen;
  const page = address + by * PAGE;
  if (page >= block.first && page < block.end) return choose(block, page, state.item);
  const next = state.view.blocks[block.column][block.index + Number(by)];
  if (next) choose(next, by > 0n ? next.first : next.end - PAGE);
}

// ---------------------------------------------------------------------------------------------------------------------------
// Zoom

/** Zooms a column at a pixel. The other one comes with it, so that what is linked stands at one height in the end. */
function zoom(column, y, factor) {
  const place = frame();
  const at = heightOfPixel(column, y, place);
  const address = state.axes[column].addressAt(at)?.address;
  if (address === undefined || isAtLimit(column, address, factor, place)) return;
  const block = blockAt(column, address);
  const partner = block && partnerOf(block, address);
  zoomColumn(column, y, y, at, factor, place);
  const other = 1 - column;
  if (partner !== undefined) {
    const there = state.axes[other].heightAt(partner);
    const pixels = pixel(other, partner, place);
    zoomColumn(other, pixels, pixels + (y - pixels) * (1 - 1 / Math.max(factor, 1)), there, factor, place);
  } else if (factor < 1) {
    zoomColumn(other, y, y, heightOfPixel(other, y, place), factor, place);
  }
  draw();
}

/** A page of sixty pixels is as large as it gets. */
function isAtLimit(column, address, factor, place) {
  const [top, bottom] = extent(column, address, address + PAGE, place);
  return factor > 1 && bottom - top > 60;
}

/** Shows a column larger by a factor, so that a height that was at one pixel comes to another. */
function zoomColumn(column, before, after, height, factor, place) {
  const window = state.windows[column];
  const span = Math.min(window.span / factor, state.axes[column].height);
  setWindow(column, height - (after / place.height) * span, span);
}

function setWindow(column, top, span) {
  const { height } = state.axes[column];
  const kept = Math.min(Math.max(span, height * 1e-12), height);
  state.windows[column] = { span: kept, top: Math.min(Math.max(top, 0), height - kept) };
}

function heightOfPixel(column, y, place) {
  const { top, span } = state.windows[column];
  return top + (y / place.height) * span;
}

function addressOfPixel(column, y, place) {
  return state.axes[column].addressAt(heightOfPixel(column, y, place))?.address ?? 0n;
}

/** Moves a column by pixels. */
function move(column, pixels) {
  const { top, span } = state.windows[column];
  setWindow(column, top + (pixels / frame().height) * span, span);
}

function zoomAll() {
  state.axes.forEach((axis, column) => setWindow(column, 0, axis.height));
  draw();
}

/** Shows a block with a little around it, and beside it what it leads to. */
function zoomTo(block, page) {
  const show = (column, first, end) => {
    const [top, bottom] = [state.axes[column].heightAt(first), state.axes[column].heightAt(end)];
    const margin = (bottom - top) * 0.25 || state.axes[column].height * 1e-6;
    setWindow(column, top - margin, bottom - top + 2 * margin);
  };
  show(block.column, block.first, block.end);
  const target = block.column === 0 ? targetOf(block) : virtualOf(page)[0]?.block;
  if (target) show(1 - block.column, target.first, target.end);
  draw();
}

/** Moves what is shown so that a block's page is in it, and in the other column what it leads to. */
function reveal(block, page) {
  const place = frame();
  const bring = (column, address) => {
    const y = pixel(column, address, place);
    if (y < 20 || y > place.height - 20) move(column, y - place.height / 2);
  };
  bring(block.column, page);
  const partner = partnerOf(block, page);
  if (partner !== undefined) bring(1 - block.column, partner);
  draw();
}

// ---------------------------------------------------------------------------------------------------------------------------
// Lists

function makeViewChoice() {
  const choice = document.getElementById("views");
  choice.hidden = views.length < 2;
  if (views.length > MOST_SIDE_BY_SIDE) {
    const select = html("select", { "aria-label": "View" }, ...views.map((view, index) => html("option", { value: String(index) }, view.name)));
    select.addEventListener("change", () => show(Number(select.value)));
    return choice.append(select);
  }
  views.forEach((view, index) => {
    const input = html("input", { type: "radio", name: "view", value: String(index) });
    input.addEventListener("change", () => show(index));
    choice.append(html("label", {}, input, view.name));
  });
}

function makeRegions() {
  const view = state.view ?? views[0];
  const section = document.getElementById("regions");
  // Of two maps the list has what is different.
  section.hidden = !view.regions.length || view.right_map !== undefined;
  const rows = view.regions.map((region, index) => {
    const button = html("button", { type: "button" }, picture.kinds[region.kind].name);
    button.addEventListener("click", () => chooseRegion(index));
    const cells = [String(index), button, region.virt ?? "", region.phys, String(BigInt(region.pages)), region.verdict];
    const row = html("tr", { "data-region": String(index), class: `verdict-${region.verdict}` }, ...cells.map((cell) => html("td", {}, cell)));
    row.children[1].classList.add("swatch", picture.kinds[region.kind].class);
    return row;
  });
  section.querySelector("tbody").replaceChildren(...rows);
}

function markRegion(index) {
  document.querySelectorAll("#regions tr.chosen").forEach((row) => row.classList.remove("chosen"));
  const row = index === undefined ? null : document.querySelector(`#regions tr[data-region="${index}"]`);
  if (!row) return;
  row.classList.add("chosen");
  // Of the list alone: that the panel moves too would take the walk out of sight.
  const list = row.closest(".scrolled");
  list.scrollTop = row.offsetTop - list.clientHeight / 2;
}

/** A region at its virtual address, or else at its physical one. */
function chooseRegion(index) {
  const region = state.view.regions[index];
  const block = (region.virt && blockAt(0, BigInt(region.virt))) ?? state.view.blocks[1].find((block) => block.region === index);
  if (!block) return tell(`region ${index} has no pages, and is nowhere`);
  choose(block, block.first);
  zoomTo(block, block.first);
}

function makeLegend() {
  const used = new Map();
  for (const block of state.view.blocks.flat()) used.set(block.kind.class, block.kind.class === "type-other" ? "other types" : block.kind.name);
  const kinds = [...used].map(([kind, name]) => html("span", { class: `swatch ${kind}` }, name));
  const has = (holds) => state.view.blocks[0].some(holds);
  const samples = [
    [has((block) => block.rights), "RW", (box) => [box]],
    [has((block) => block.rights && texture(block.rights) === "x"), "R-X", (box) => [box, fill(box, "rights-x")]],
    [has((block) => block.rights && texture(block.rights) === "wx"), "RWX", (box) => [box, fill(box, "rights-wx")]],
    [has((block) => block.rights && texture(block.rights) === "r"), "R", (box) => [box, fill(box, "rights-r")]],
    ...["4K", "2M", "1G"].map((leaf) => [has((block) => block.leaf === leaf), `leaves ${leaf}`, (box) => [box, fill(box, `leaf-${leaf}`, 8)]]),
    [has((block) => block.planned), state.view.tables ? "due, not mapped" : "where it is to go", (box) => [box], "planned"],
    [has((block) => block.defect), "nothing translates", (box) => [box], "defect"],
    ...["moved", "gone", "new", "changed"].map((change) => [state.view.blocks.flat().some((block) => block.change === change), change, (box) => [box], `change-${change}`]),
  ];
  const drawn = samples.filter(([is]) => is).map(([, name, make, type = ""]) => {
    const svg = element("svg", { width: 22, height: 14, class: `block ${type}`, "aria-hidden": "true" });
    svg.append(...make(element("rect", { x: 1, y: 1, width: 20, height: 12, class: "body" })));
    return html("span", { class: "sample" }, svg, name);
  });
  document.getElementById("legend").replaceChildren(...kinds, ...drawn);
}

/** A texture over a legend's box, as wide as it or at its right edge. */
function fill(box, id, width = 20) {
  const copy = box.cloneNode();
  copy.setAttribute("class", "texture");
  copy.setAttribute("fill", `url(#${id})`);
  copy.setAttribute("x", 21 - width);
  copy.setAttribute("width", width);
  return copy;
}

/** Selects an item of the list: its text, and its place in the drawing. */
function chooseItem(index) {
  const place = places[index];
  if (place.view !== undefined && views[place.view] !== state.view) show(place.view);
  state.item = index;
  markItem();
  if (place.first === undefined) return tell("it is about no address");
  const block = blockAt(place.column, place.first);
  if (block) {
    choose(block, place.first, index);
    zoomTo(block, place.first);
  } else {
    state.chosen = undefined;
    tell(`nothing is mapped at ${hex(place.first)}`);
    const y = pixel(place.column, place.first, frame());
    move(place.column, y - frame().height / 2);
    if (place.column === 0 && state.view.tables) document.getElementById("walk").replaceChildren(...walkOf(place.first));
    draw();
  }
}

function markItem() {
  document.querySelectorAll("#items li").forEach((item, index) => {
    item.classList.toggle("chosen", index === state.item);
    if (index === state.item) item.scrollIntoView({ block: "nearest" });
  });
}

function tell(text) {
  document.getElementById("status").textContent = text;
}

// ---------------------------------------------------------------------------------------------------------------------------
// Keys, pointer, search

function listen() {
  stage.addEventListener("click", (event) => onClick(event));
  stage.addEventListener("dblclick", () => state.chosen && zoomTo(state.chosen.block, state.chosen.address));
  stage.addEventListener("wheel", onWheel, { passive: false });
  stage.addEventListener("pointerdown", onPointer);
  stage.addEventListener("keydown", onStageKey);
  document.addEventListener("keydown", onKey);
  search.addEventListener("keydown", onSearchKey);
  document.getElementById("zoom-in").addEventListener("click", () => zoomChosen(1.6));
  document.getElementById("zoom-out").addEventListener("click", () => zoomChosen(1 / 1.6));
  document.getElementById("zoom-all").addEventListener("click", zoomAll);
  document.querySelectorAll("#scales input").forEach((input) => input.addEventListener("change", () => setScale(input.value === "even")));
  document.querySelectorAll("#items li button").forEach((button, index) => button.addEventListener("click", () => chooseItem(index)));
}

function setScale(isEven) {
  state.isEven = isEven;
  state.axes = axesOf(state.view, isEven);
  zoomAll();
  if (state.chosen) reveal(state.chosen.block, state.chosen.address);
}

/** Which column a pixel is nearer to. */
function columnAt(x) {
  return x < frame().width / 2 ? 0 : 1;
}

let wasDragged = false;

function onClick(event) {
  if (wasDragged) return;
  const item = event.target.closest("[data-item]");
  if (item) return chooseItem(Number(item.dataset.item));
  const found = event.target.closest("[data-block]");
  if (!found) return unchoose();
  const [column, index] = found.dataset.block.split(" ").map(Number);
  const block = state.view.blocks[column][index];
  const y = event.clientY - stage.getBoundingClientRect().top;
  const address = addressOfPixel(column, y, frame());
  choose(block, address < block.first ? block.first : address >= block.end ? block.end - PAGE : address);
}

function onWheel(event) {
  event.preventDefault();
  const box = stage.getBoundingClientRect();
  const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? event.deltaY * 16 : event.deltaY;
  zoom(columnAt(event.clientX - box.left), event.clientY - box.top, Math.exp(-lines / 300));
}

/** Dragging moves the column under the pointer; with Shift both. */
function onPointer(event) {
  const column = columnAt(event.clientX - stage.getBoundingClientRect().left);
  const columns = event.shiftKey ? [0, 1] : [column];
  let last = event.clientY;
  wasDragged = false;
  const onMove = (event) => {
    if (!wasDragged && Math.abs(event.clientY - last) < 4) return;
    wasDragged = true;
    columns.forEach((column) => move(column, last - event.clientY));
    last = event.clientY;
    draw();
  };
  const onEnd = () => {
    window.removeEventListener("pointermove", onMove);
    window.removeEventListener("pointerup", onEnd);
    window.removeEventListener("pointercancel", onEnd);
  };
  window.addEventListener("pointermove", onMove);
  window.addEventListener("pointerup", onEnd);
  window.addEventListener("pointercancel", onEnd);
}

/** Zooms at what is selected, or at the middle. */
function zoomChosen(factor) {
  const place = frame();
  const y = state.chosen ? pixel(state.chosen.column, state.chosen.address, place) : place.height / 2;
  zoom(state.chosen?.column ?? 0, Math.min(Math.max(y, 0), place.height), factor);
}

const STAGE_KEYS = {
  ArrowDown: () => step(1),
  ArrowUp: () => step(-1),
  ArrowLeft: () => cross(0),
  ArrowRight: () => cross(1),
  Home: () => choose(state.view.blocks[state.chosen?.column ?? 0][0]),
  End: () => choose(state.view.blocks[state.chosen?.column ?? 0].at(-1)),
  PageDown: () => turnPage(1n),
  PageUp: () => turnPage(-1n),
  Enter: () => state.chosen && zoomTo(state.chosen.block, state.chosen.address),
  "+": () => zoomChosen(1.6),
  "=": () => zoomChosen(1.6),
  "-": () => zoomChosen(1 / 1.6),
  0: zoomAll,
};

function onStageKey(event) {
  const act = STAGE_KEYS[event.key];
  if (!act || event.ctrlKey || event.metaKey || event.altKey || !state.view.blocks.flat().length) return;
  event.preventDefault();
  act();
}

/** Keys that work anywhere but where text is typed. */
function onKey(event) {
  if (event.target === search || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/") search.focus();
  else if (event.key === "Escape") isAllShown() ? unchoose() : zoomAll();
  else if (event.key === "n" && places.length) chooseItem(((state.item ?? -1) + 1) % places.length);
  else if (event.key === "p" && places.length) chooseItem(((state.item ?? 0) + places.length - 1) % places.length);
  else return;
  event.preventDefault();
}

function isAllShown() {
  return state.axes.every((axis, column) => state.windows[column].span >= axis.height);
}

/** To the next block of a column. */
function step(by) {
  const column = state.chosen?.column ?? 0;
  const blocks = state.view.blocks[column];
  const index = state.chosen ? state.chosen.block.index + by : by > 0 ? 0 : blocks.length - 1;
  if (blocks[index]) choose(blocks[index]);
}

/** To what is linked in the other column. */
function cross(column) {
  if (!state.chosen) return step(1);
  const { block, address } = state.chosen;
  if (block.column === column) return;
  const partner = partnerOf(block, address);
  const other = partner === undefined ? undefined : blockAt(column, partner);
  other ? choose(other, partner) : tell("it leads to no block of the other column");
}

function onSearchKey(event) {
  if (event.key === "Escape") stage.focus();
  if (event.key === "Enter") find(search.value.trim());
}

/** An address (`0x7e000000`), a region (`#12`), or a part of a type's name: the next one of it. */
function find(text) {
  const number = text.match(/^#?(\d+)$/);
  if (number) return Number(number[1]) < state.view.regions.length ? chooseRegion(Number(number[1])) : tell(`there is no region ${number[1]}`);
  const digits = text.replace(/[_\s]/g, "").match(/^(?:0x)?([0-9a-f]{1,16})$/i);
  if (digits && (/^0x/i.test(text) || !/[g-z]/i.test(text))) return findAddress(BigInt(`0x${digits[1]}`));
  const blocks = state.view.blocks.flat();
  const after = state.chosen ? blocks.indexOf(state.chosen.block) + 1 : 0;
  const isMeant = (block) => nameOf(block).toLowerCase().includes(text.toLowerCase());
  const block = blocks.slice(after).find(isMeant) ?? blocks.find(isMeant);
  if (!block || !text) return tell(`nothing is called ${text}`);
  choose(block);
  zoomTo(block, block.first);
}

function findAddress(address) {
  const block = blockAt(0, address) ?? blockAt(1, address);
  if (!block) {
    const gap = state.axes[0].segments.find((segment) => segment.first <= address && address < segment.end);
    tell(`nothing is at ${hex(address)}${gap ? `: it lies in a gap of ${size(gap.end - gap.first)}` : ""}`);
    if (state.view.tables) document.getElementById("walk").replaceChildren(...walkOf(pageOf(address)));
    return;
  }
  choose(block, address);
  zoomTo(block, address);
}

// ---------------------------------------------------------------------------------------------------------------------------
// Elements

function element(name, attributes = {}) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function label(x, y, text, anchor, type = "") {
  const made = element("text", { x: round(x), y: round(y), "text-anchor": anchor, class: type });
  made.textContent = text;
  return made;
}

function titled(text) {
  const title = element("title");
  title.textContent = text;
  return title;
}

function html(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// At the end, when all of the above is there.
start();
