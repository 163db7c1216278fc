// The db: appends lines to a file in its volume (POST /) and serves the end of it (GET /).
// A line that was answered with 200 is on disk.
'use strict';
const fs = require('node:fs/promises');
const path = require('node:path');
const { parseArgs } = require('node:util');
const { serve, send } = require('../shared/serve.js');

const PORT = Number(process.env.PORT ?? 80);
const LINE_LIMIT = 4096; // bytes of one line
const SHOWN = 64 * 1024; // bytes of the book that one GET shows

const { book } = parseArgs({ options: { book: { type: 'string', default: '/data/book.txt' } } }).values;

async function readLine(request) {
  let line = '';
  for await (const part of request) {
    line += part;
    if (line.length > LINE_LIMIT) return null;
  }
  return line.replace(/[\r\n]+/g, ' ').trim();
}

async function append(request, response) {
  const line = await readLine(request);
  if (!line) return send(response, 400, 'text/plain', `one line of at most ${LINE_LIMIT} bytes, please\n`);
  const file = await fs.open(book, 'a');
  try {
    await file.write(`${line}\n`);
    await file.datasync();
  } finally {
    await file.close();
  }
  return send(response, 200, 'text/plain', 'written\n');
}

async function show(_, response) {
  const file = await fs.open(book, 'a+');
  try {
    const { size } = await file.stat();
    const length = Math.min(size, SHOWN);
    const { buffer } = await file.read(Buffer.alloc(length), 0, length, size - length);
    send(response, 200, 'text/plain', buffer.toString('utf8'));
  } finally {
    await file.close();
  }
}

serve(PORT, {
  'GET /': show,
  'POST /': append,
  'GET /health': async (_, response) => {
    await fs.access(path.dirname(book), fs.constants.W_OK);
    send(response, 200, 'text/plain', 'ok\n');
  },
});
