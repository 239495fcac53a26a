// Numbers as a person reads them. Counters come as texts and stay whole: they are BigInt here, never doubles.

const GAP = "\u202f";

/** 1234567 as "1 234 567", whole. */
export function whole(text) {
  return text.replace(/\B(?=(\d{3})+$)/g, GAP);
}

const STEPS = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];

/** A rate: three digits are enough for what is over in two seconds. `null`: not known. */
export function rate(bitsPerSecond) {
  if (bitsPerSecond === null) return "\u2013";
  for (const [step, prefix] of STEPS) {
    if (bitsPerSecond >= step) return `${(bitsPerSecond / step).toPrecision(3)} ${prefix}bit/s`;
  }
  return `${Math.round(bitsPerSecond)} bit/s`;
}

/** Bits per second between two counts of bytes. */
export function perSecond(before, after, elapsedNs) {
  const bytes = BigInt(after) - BigInt(before);
  if (bytes < 0n || elapsedNs <= 0n) return null;
  // Of what is shown, not of what is billed: from here on a double will do.
  return Number((bytes * 8_000_000_000n) / elapsedNs);
}

const SPANS = [[86_400, "d"], [3_600, "h"], [60, "min"]];

/** A time that has passed, from nanoseconds. */
export function span(ns) {
  const seconds = Number(BigInt(ns) / 1_000_000n) / 1_000;
  for (const [step, unit] of SPANS) {
    if (seconds >= step) return `${(seconds / step).toFixed(1)} ${unit}`;
  }
  return `${seconds.toFixed(1)} s`;
}

/** A time of day as it was sent, in UTC, without parts of a second. */
export function moment(text) {
  return text.replace(/\.\d+Z$/, "Z").replace("T", " ").replace("Z", " UTC");
}
