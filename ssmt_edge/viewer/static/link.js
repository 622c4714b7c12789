// The connection to the server: pictures and status in, acknowledgements and wishes out; comes back by itself.

export async function post(path, body) {
  let answer;
  try {
    answer = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
  } catch {
    throw new Error("no connection to ssmt-edge");
  }
  if (!answer.ok) {
    const said = await answer.json().catch(() => ({}));
    throw new Error(said.error || `the server answers ${answer.status}`);
  }
  return answer;
}

export class Link {
  // onPicture(header, bitmap) returns whether it is on the screen now
  constructor({ onStatus, onPicture, onUp, onDown }) {
    this.handlers = { onStatus, onPicture, onUp, onDown };
    this.wishes = { watch: null, frozen: false };
    this.pause = 500;
    this.open();
  }

  open() {
    this.socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/live`);
    this.socket.binaryType = "arraybuffer";
    let work = Promise.resolve(); // one picture after the other, in order
    this.socket.onopen = () => {
      this.say(this.wishes);
      this.handlers.onUp();
    };
    this.socket.onmessage = (event) => {
      if (typeof event.data === "string") {
        this.pause = 500;
        this.handlers.onStatus(JSON.parse(event.data));
      } else {
        work = work.then(() => this.show(event.data)).catch(() => this.say({ shown: false }));
      }
    };
    this.socket.onclose = (event) => {
      this.handlers.onDown(event.reason);
      setTimeout(() => this.open(), this.pause);
      this.pause = Math.min(this.pause * 2, 4000);
    };
  }

  async show(data) {
    const length = new DataView(data).getUint32(0, true);
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
    const bitmap = await createImageBitmap(new Blob([new Uint8Array(data, 4 + length)], { type: "image/jpeg" }));
    this.say({ shown: this.handlers.onPicture(header, bitmap) });
  }

  wish(wishes) {
    Object.assign(this.wishes, wishes);
    this.say(wishes);
  }

  say(message) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }
}
