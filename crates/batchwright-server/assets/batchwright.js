// The browser's half of progressive execution: drives the lanes of an execution by short requests and returns its
// final response. A module without dependencies: import { batchFetch, drive } from '/assets/batchwright.js'.
//
// Options, all of them optional:
//   onProgress(progress)  called with the progress of each answer
//   owner                 the owner's token of the execution
//   headers               headers of all requests: { authorization: 'Bearer …' }
//   signal                an AbortSignal that ends the driving; the execution stays open
//   tolerance             milliseconds for which a server that does not answer is retried (default 5 minutes)
//   keep                  true: the response is not acknowledged, so that other clients can read it too

const BACKOFF_FIRST = 100;
const BACKOFF_MAX = 5000;
const TOLERANCE = 5 * 60 * 1000;

/** Sends a request like `fetch`; drives an answer that needs a batch to its final response. */
export async function batchFetch(input, init = {}, options = {}) {
  const response = await fetch(input, init);
  const execution = response.headers.get('x-needs-batch');
  if (response.status !== 202 || execution === null) return response;
  options.onNeeded?.(execution);
  const location = response.headers.get('location') ?? `/v1/executions/${execution}`;
  const place = new URL(`${location}/`, response.url);
  // The headers of the caller are sent there.
  if (place.origin !== new URL(response.url).origin) throw new Error(`the answer leads to another server: ${place}`);
  return driveAt(place, options);
}

/** Drives execution `execution` to its end; returns its final response. `base`: the address of the API. */
export async function drive(execution, options = {}, base = new URL('..', import.meta.url)) {
  return driveAt(new URL(`v1/executions/${execution}/`, base), options);
}

async function driveAt(place, options) {
  const opened = await (await insist(new URL('lanes', place), {}, options)).json();
  if (opened.code) throw refused(opened);
  const ended = new AbortController();
  options.signal?.addEventListener('abort', () => ended.abort(options.signal.reason));
  const lanes = opened.lanes.slice(0, opened.max_concurrency);
  let furthest = -1;
  const progress = (now) => {
    // Answers may overtake each other, but the shown progress never decreases.
    const accounted = now.units_done + now.units_failed;
    if (accounted < furthest) return;
    furthest = accounted;
    options.onProgress?.(now);
  };
  await Promise.all(lanes.map((lane) => driveLane(place, lane, progress, ended, options)));
  options.signal?.throwIfAborted();
  return finalResponse(place, options);
}

async function driveLane(place, lane, progress, ended, options) {
  const url = new URL(`lanes/${lane.id}/slices`, place);
  let seq = lane.next_seq;
  while (!ended.signal.aborted) {
    let answer;
    try {
      const init = {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ seq }),
        signal: ended.signal,
      };
      const response = await insist(url, init, options);
      answer = await response.json();
      if (!response.ok) {
        if (answer.code === 'wrong_seq') { seq = answer.expected; continue; }
        if (answer.code === 'lane_busy' || answer.code === 'stale_lease') { await pause(1000, ended.signal); continue; }
        if (answer.code === 'execution_finished') { ended.abort(); return; }
        throw refused(answer);
      }
    } catch (error) {
      if (ended.signal.aborted) return;
      ended.abort();
      throw error;
    }
    progress(answer.progress);
    seq = answer.next_seq;
    if (answer.outcome === 'wait') await pause(answer.retry_after_ms ?? 250, ended.signal);
    // The first lane that receives the end of the execution ends all lanes.
    if (answer.outcome === 'final' || answer.outcome === 'done') ended.abort();
  }
}

async function finalResponse(place, options) {
  for (;;) {
    const response = await insist(new URL('response?wait=20s', place), {}, options, true);
    if (response.status === 202) continue;
    const type = response.headers.get('content-type') ?? '';
    if (response.status === 410 && type.startsWith('application/problem+json')) {
      throw refused(await response.json());
    }
    const body = await response.arrayBuffer();
    if (!options.keep) {
      // A lost acknowledgement only means that the server keeps the response longer.
      insist(new URL('response', place), { method: 'DELETE' }, options).catch(() => {});
    }
    const { status, statusText, headers } = response;
    return new Response(body, { status, statusText, headers });
  }
}

/** Sends the request until the answer is not a temporary failure, or the tolerance is used up. */
async function insist(url, init, options, isResponse = false) {
  const headers = new Headers(options.headers);
  new Headers(init.headers).forEach((value, name) => headers.set(name, value));
  if (options.owner) headers.set('x-batch-owner', options.owner);
  const tolerance = options.tolerance ?? TOLERANCE;
  for (let attempt = 0, waited = 0; ; attempt += 1) {
    let failure;
    let wait = Math.min(BACKOFF_FIRST * 2 ** attempt, BACKOFF_MAX) * (0.5 + Math.random() / 2);
    try {
      const response = await fetch(url, { ...init, headers });
      // A failed execution answers with 500, which is final.
      if (response.status < 500 || (isResponse && response.status === 500)) return response;
      const seconds = Number(response.headers.get('retry-after'));
      if (seconds > 0) wait = seconds * 1000;
      failure = refused({ code: 'unavailable', detail: `the server answers ${response.status}` });
    } catch (error) {
      if (init.signal?.aborted || options.signal?.aborted) throw error;
      failure = error;
    }
    if (waited + wait > tolerance) throw failure;
    await pause(wait, init.signal ?? options.signal);
    waited += wait;
  }
}

function refused(problem) {
  const error = new Error(problem.detail ?? 'the server refused');
  error.code = problem.code;
  return error;
}

/** Waits; `signal` and a network that becomes available end the wait. */
function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      globalThis.removeEventListener?.('online', done);
      signal?.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, milliseconds);
    globalThis.addEventListener?.('online', done);
    signal?.addEventListener('abort', done);
  });
}
