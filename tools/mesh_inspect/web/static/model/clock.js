/** The time that the page shows: the server's, or that of a recording which is played. */

export class ShownClock {
  /** `now_s` gives seconds that only grow. */
  constructor(now_s) {
    this.now_s = now_s;
    this.at = NaN;
    this.heard = 0;
    this.speed = 1;
  }

  /** The server says that it is `at` (seconds since the epoch). */
  hear(at, replay) {
    this.at = at;
    this.heard = this.now_s();
    this.follow(replay);
  }

  /** How a recording is played; null for the present. */
  follow(replay) {
    if (replay !== null && replay !== undefined) {
      this.at = replay.at;
      this.heard = this.now_s();
      this.speed = replay.paused ? 0 : replay.speed;
    } else {
      this.speed = 1;
    }
  }

  /** Seconds since the epoch; NaN before the server has said any. */
  now() {
    return this.at + (this.now_s() - this.heard) * this.speed;
  }
}
