// An HTTP server that leaves in good order: on SIGTERM it takes no new connection, finishes what it has, and exits.
'use strict';
const http = require('node:http');

// Routes are `'GET /path': (request, response) => …`; one that throws answers 500 and the server lives on.
function serve(port, routes) {
  let leaving = false;
  const server = http.createServer(async (request, response) => {
    if (leaving) response.setHeader('connection', 'close');
    const path = request.url.split('?', 1)[0];
    const route = routes[`${request.method === 'HEAD' ? 'GET' : request.method} ${path}`];
    try {
      if (route) await route(request, response);
      else send(response, 404, 'text/plain', 'no such page\n');
    } catch (error) {
      console.error(`${request.method} ${path}: ${error.message}`);
      if (response.headersSent) response.destroy();
      else send(response, 500, 'text/plain', 'something went wrong\n');
    }
  });
  server.listen(port, () => console.log(`${process.env.VIKING_ID ?? 'here'} listens on ${port}`));
  process.once('SIGTERM', () => {
    leaving = true;
    console.log('SIGTERM: finishing what is under way');
    server.close(() => process.exit(0));
    server.closeIdleConnections();
  });
  return server;
}

function send(response, status, type, body) {
  response.writeHead(status, { 'content-type': `${type}; charset=utf-8`, 'content-length': Buffer.byteLength(body) });
  response.end(body);
}

module.exports = { serve, send };
