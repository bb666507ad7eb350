/** The form of each state, so that nothing is said by colour alone: lines in a field of 16 by 16. */

export const GLYPHS = {
  ready: "M3 8.5l3.5 3.5L13 4.5",
  loading: "M8 2v8M4.5 7L8 10.5 11.5 7M3 14h10",
  alive: "M8 3a5 5 0 1 0 0 10a5 5 0 1 0 0-10",
  unavailable: "M8 2.5a5.5 5.5 0 1 0 0 11a5.5 5.5 0 1 0 0-11M4.2 4.2l7.6 7.6",
  accused: "M8 2.5L14.5 13.5H1.5ZM8 6.5v3.2M8 11.6v.3",
  stalled: "M5.5 3.5v9M10.5 3.5v9",
  suspect: "M5.2 5.6a2.8 2.8 0 1 1 4.2 2.4c-.9.5-1.4 1-1.4 2M8 12.7v.3",
  dead: "M4 4l8 8M12 4l-8 8",
  left: "M2.5 8h8M7.5 4.5L11 8l-3.5 3.5M13.5 3v10",
};

/** What the button of a recording does next. */
export const SIGNS = {
  play: "M5 3l8 5-8 5z",
  pause: "M5 3.5v9M11 3.5v9",
};
