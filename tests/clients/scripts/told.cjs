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
// The model is told what to look for, and repeats what it reads: with the mark of the passage, which becomes a citation.
exports.ASKS_BOILING = 'call file_search {"queries": ["At how many degrees does water boil?"]}';
exports.BOILING = 'Water boils at 100 degrees.';
// The message at which the model calls code interpreter with this code, and then repeats what it printed.
exports.asksToRun = (code) => `call code_interpreter ${JSON.stringify({ input: code })}`;
exports.serverUrl = () => process.env.OPENAI_BASE_URL.replace(/\/v1$/, '');
exports.equal = (actual, expected) => deepStrictEqual(actual, expected);
exports.ok = (claim, shown) => {
  if (!claim) throw new Error(`not so: ${JSON.stringify(shown)}`);
};
exports.leftOut = (what, why) => console.log(`left out\t${what}\t${why}`);
// Whether the server runs code on this machine; where it does not, `what` is left out.
exports.runsCode = (what) => {
  if (!process.env.RUNS_CODE) exports.leftOut(what, 'no code runs on this machine: see docs/how-to/code-interpreter.md');
  return Boolean(process.env.RUNS_CODE);
};
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
