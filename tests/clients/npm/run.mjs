// Runs one check of one client: node run.mjs CLIENT CHECK, with what it needs in the environment.
// A check is an exported function; it returns when all is well, and throws what isn't.
const [client, check] = process.argv.slice(2);
const checks = await import(`./${client}.mjs`);
try {
  await checks[check]();
} catch (error) {
  console.error(error);
  process.exit(1);
}
process.exit(0); // not when the connections that are kept alive have timed out
