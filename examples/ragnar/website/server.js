// The website: counts each visit in redis and says which copy of which release answered.
// Redis may go away and come back: the page then has no number, and nobody is turned away.
'use strict';
const fs = require('node:fs');
const path = require('node:path');
const { Redis } = require('../shared/redis.js');
const { serve, send } = require('../shared/serve.js');

const PORT = Number(process.env.PORT ?? 80);
const INBOX_LENGTH = 1000; // visits kept for the worker while it is away

const redis = Redis.linked();
const template = fs.readFileSync(path.join(__dirname, 'page.html'), 'utf8');
const style = fs.readFileSync(path.join(__dirname, 'style.css'), 'utf8');
const { VIKING_TAG: tag = 'none', VIKING_SLOT: slot = '0', VIKING_HOST: host = 'localhost' } = process.env;

async function countVisit() {
  try {
    const visits = await redis.command('INCR', 'ragnar:visits');
    await redis.command('LPUSH', 'ragnar:inbox', `visit ${visits} on ${tag} slot ${slot}`);
    await redis.command('LTRIM', 'ragnar:inbox', 0, INBOX_LENGTH - 1);
    return visits;
  } catch (error) {
    console.error(`not counted: ${error.message}`);
    return null;
  }
}

function page(visits) {
  const values = {
    tag,
    slot,
    host,
    visits: visits ?? '—',
    words: visits === null ? 'redis is away; nobody is counting' : visits === 1 ? 'visit so far' : 'visits so far',
  };
  return template.replace(/\{\{(\w+)\}\}/g, (_, name) => escape(values[name] ?? ''));
}

const escape = (value) => String(value).replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);

serve(PORT, {
  'GET /': async (_, response) => send(response, 200, 'text/html', page(await countVisit())),
  'GET /style.css': (_, response) => send(response, 200, 'text/css', style),
  // Healthy means able to answer, with or without redis: a lost redis must not take the website with it.
  'GET /health': (_, response) => send(response, 200, 'text/plain', 'ok\n'),
});
process.once('SIGTERM', () => redis.close());
