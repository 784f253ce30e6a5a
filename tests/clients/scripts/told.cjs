// What a script tells the suite, as in told.py. Packages are found through NODE_PATH, in the client's own environment.
'use strict';
const { deepStrictEqual } = require('node:assert');
const fs = require('node:fs');

exports.MODEL = 'offline';
exports.SLOW = 'offline-50ms';
exports.WEATHER = {
  type: 'function',
  function: {
    name: 'get_weather',
    description: 'The weather in a city.',
    parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
  },
};
exports.ASKS_WEATHER = 'call get_weather {"city": "Oslo"}';
exports.serverUrl = () => process.env.OPENAI_BASE_URL.replace(/\/v1$/, '');
exports.equal = (actual, expected) => deepStrictEqual(actual, expected);
exports.ok = (claim, shown) => {
  if (!claim) throw new Error(`not so: ${JSON.stringify(shown)}`);
};
exports.leftOut = (what, why) => console.log(`left out\t${what}\t${why}`);
exports.written = (name, text) => {
  fs.writeFileSync(name, text);
  return name;
};

// Everything inside is what `what` says; when it throws, the script has failed there.
exports.doing = async (what, inside) => {
  try {
    await inside();
  } catch (error) {
    console.error(error);
    console.log(`failed\t${what}\t${String(error).replace(/\s+/g, ' ').slice(0, 300)}`);
    process.exit(1);
  }
  console.log(`ok\t${what}`);
};

// The error that a promise ends with.
exports.refused = async (promise) => {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error('no error');
};

const main = (script) =>
  script().catch((error) => {
    console.error(error);
    process.exit(1);
  });
exports.main = main;
