// A redis client in one page: `command('INCR', 'visits')` gives a promise.
// It connects when first needed and again after a loss. While redis is away a command fails at once or after its
// time limit; it never hangs, and it is never sent twice.
'use strict';
const net = require('node:net');

const COMMAND_LIMIT_MS = 1000;

class Redis {
  constructor(host, port) {
    this.address = { host, port };
    this.socket = null;
    this.waiting = []; // one entry per reply still to come, in order
    this.received = Buffer.alloc(0);
  }

  command(...words) {
    const socket = this.socket ?? this.connect();
    return new Promise((resolve, reject) => {
      // A late reply cannot be told from the next one, so a time-out gives up the connection.
      const timer = setTimeout(() => this.lose(socket, new Error('redis did not answer in time')), COMMAND_LIMIT_MS);
      this.waiting.push({ resolve, reject, timer });
      socket.write(encode(words));
    });
  }

  connect() {
    const socket = net.connect(this.address);
    socket.setNoDelay(true);
    socket.on('data', (bytes) => this.receive(socket, bytes));
    socket.on('error', (error) => this.lose(socket, error));
    socket.on('close', () => this.lose(socket, new Error('redis closed the connection')));
    this.socket = socket;
    return socket;
  }

  receive(socket, bytes) {
    if (socket !== this.socket) return;
    this.received = Buffer.concat([this.received, bytes]);
    for (let reply = decode(this.received, 0); reply; reply = decode(this.received, 0)) {
      this.received = this.received.subarray(reply.end);
      const { resolve, reject, timer } = this.waiting.shift();
      clearTimeout(timer);
      if (reply.value instanceof Error) reject(reply.value);
      else resolve(reply.value);
    }
  }

  lose(socket, error) {
    if (socket !== this.socket) return;
    const lost = this.waiting;
    this.socket = null;
    this.waiting = [];
    this.received = Buffer.alloc(0);
    socket.destroy();
    for (const { reject, timer } of lost) {
      clearTimeout(timer);
      reject(error);
    }
  }

  close() {
    this.socket?.end();
  }
}

function encode(words) {
  const parts = words.map(String).map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`);
  return `*${words.length}\r\n${parts.join('')}`;
}

// One whole reply from `at` as {value, end}; undefined while some of it has not arrived.
function decode(bytes, at) {
  const lineEnd = bytes.indexOf('\r\n', at);
  if (lineEnd < 0) return undefined;
  const kind = bytes.toString('latin1', at, at + 1);
  const rest = bytes.toString('utf8', at + 1, lineEnd);
  const end = lineEnd + 2;
  if (kind === '+') return { value: rest, end };
  if (kind === ':') return { value: Number(rest), end };
  if (kind === '-') return { value: new Error(`redis: ${rest}`), end };
  if (rest === '-1') return { value: null, end };
  return kind === '$' ? decodeText(bytes, end, Number(rest)) : decodeList(bytes, end, Number(rest));
}

function decodeText(bytes, from, length) {
  const end = from + length + 2;
  return bytes.length < end ? undefined : { value: bytes.toString('utf8', from, from + length), end };
}

function decodeList(bytes, from, length) {
  const value = [];
  let end = from;
  while (value.length < length) {
    const item = decode(bytes, end);
    if (!item) return undefined;
    value.push(item.value);
    end = item.end;
  }
  return { value, end };
}

// The redis that this job links to. The address is the host's ambassador: it stays when redis moves or restarts.
Redis.linked = () =>
  new Redis(process.env.REDIS_PORT_6379_TCP_ADDR ?? '127.0.0.1', Number(process.env.REDIS_PORT_6379_TCP_PORT ?? 6379));

module.exports = { Redis };
