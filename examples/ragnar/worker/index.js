// The worker: takes one visit after the other from redis and has the db write it into the book.
// A visit that could not be written goes back to the front of the queue; redis and db may come and go.
'use strict';
const http = require('node:http');
const { Redis } = require('../shared/redis.js');

const IDLE_MS = 500;
const TROUBLE_MS = 2000;
const WRITE_LIMIT_MS = 3000;

const redis = Redis.linked();
const db = {
  host: process.env.DB_PORT_80_TCP_ADDR ?? '127.0.0.1',
  port: Number(process.env.DB_PORT_80_TCP_PORT ?? 8081),
};

function write(line) {
  return new Promise((resolve, reject) => {
    const request = http.request({ ...db, method: 'POST', path: '/', timeout: WRITE_LIMIT_MS }, (response) => {
      response.resume();
      if (response.statusCode === 200) resolve();
      else reject(new Error(`the db answered ${response.statusCode}`));
    });
    request.on('timeout', () => request.destroy(new Error('the db did not answer in time')));
    request.on('error', reject);
    request.end(line);
  });
}

// True when there was something to do.
async function step() {
  const line = await redis.command('RPOP', 'ragnar:inbox');
  if (line === null) return false;
  try {
    await write(line);
  } catch (error) {
    await redis.command('RPUSH', 'ragnar:inbox', line);
    throw error;
  }
  return true;
}

let leaving = false;
let rest = () => {};
process.once('SIGTERM', () => {
  leaving = true;
  rest();
});

function pause(ms) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    rest = () => {
      clearTimeout(timer);
      resolve();
    };
  });
}

async function work() {
  console.log(`${process.env.VIKING_ID ?? 'here'} at the oars`);
  while (!leaving) {
    try {
      if (!(await step())) await pause(IDLE_MS);
    } catch (error) {
      console.error(`waiting: ${error.message}`);
      await pause(TROUBLE_MS);
    }
  }
  redis.close();
  console.log('SIGTERM: oars in');
}

work();
