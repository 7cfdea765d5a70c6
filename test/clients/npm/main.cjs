// What the suite's Node.js clients have in common: their arguments, and what
// they print. They send to 169.254.169.254 by nature; the suite runs them where
// that address is its own, and nobody else should run them.
'use strict';

/**
 * Opens one credential, gets a token from it twice, as an application would
 * that makes two calls, and prints what came back.
 *
 * @param open takes {mode, by, id, resource} and returns a function that
 *   resolves to an access token each time it is called. It is given the result,
 *   to say there what else it did. mode is "managed" or "default", by is "none",
 *   "client", "object" or "resource".
 */
exports.main = async function main(open) {
  const [mode, by, id, resource] = process.argv.slice(2);
  const result = { tokens: [], error: '' };
  try {
    const credential = open({ mode, by, id, resource });
    for (let i = 0; i < 2; i++) {
      result.tokens.push(await credential(result));
    }
  } catch (error) {
    result.error = String(error);
  }
  process.stdout.write(JSON.stringify(result) + '\n');
};

/** Returns the error of a client that lacks what is asked for. */
exports.unknown = (r) =>
  new Error(`this client knows no mode "${r.mode}" with an identity named by "${r.by}"`);
