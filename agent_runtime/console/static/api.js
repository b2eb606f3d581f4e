// Asks the API that this page was served with.

const KEY = "torpor-key";

/** What the service refused, or that it could not be asked: a problem document (RFC 9457). */
export class Problem extends Error {
  constructor({ code, detail, status = 0, retryAfter = null, requestId = null }) {
    super(detail);
    Object.assign(this, { code, detail, status, retryAfter, requestId });
  }
}

/** The API key, in this tab only. */
export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (text) => sessionStorage.setItem(KEY, text),
  forget: () => sessionStorage.clear(),
};

/** A path under /v1, its parts encoded. */
export function v1(...parts) {
  return ["v1", ...parts.map(encodeURIComponent)].join("/");
}

export async function get(path, options) {
  return (await send("GET", path, options)).json();
}

export async function post(path, json = {}, options = {}) {
  return (await send("POST", path, { json, ...options })).json();
}

export async function put(path, json) {
  return (await send("PUT", path, { json })).json();
}

/** One page of a list, and the query of the next one, null if there is none. */
export async function page(path, options) {
  const answer = await send("GET", path, options);
  const link = /<[^?>]*\?([^>]*)>; rel="next"/.exec(answer.headers.get("Link") || "");
  return { rows: await answer.json(), next: link && link[1] };
}

/** The first pages of a list, as many as that, and the query of the next one. */
export async function pages(path, limit, many, options) {
  const found = [];
  let next = `limit=${limit}`;
  while (next && found.length < many) {
    const one = await page(`${path}?${next}`, options);
    found.push(one.rows);
    next = one.next;
  }
  return { found, next };
}

/** The answer to a request. Throws Problem for every one that is no success. */
export async function send(method, path, { json, headers = {}, signal } = {}) {
  const sent = { Accept: "application/json", ...headers };
  if (key.get()) sent.Authorization = `Bearer ${key.get()}`;
  if (json !== undefined) sent["Content-Type"] = "application/json";
  const body = json === undefined ? undefined : JSON.stringify(json);
  const settings = { method, headers: sent, body, signal, cache: "no-store", credentials: "omit" };
  let answer;
  try {
    answer = await fetch(path, settings);
  } catch (error) {
    throw failed(error);
  }
  if (answer.ok) return answer;
  const problem = await problemOf(answer);
  if (problem.status === 401) document.dispatchEvent(new CustomEvent("torpor-key-needed"));
  throw problem;
}

/** What a browser says of a request or of an answer that broke off, as a Problem. */
export function failed(error) {
  if (error.name === "AbortError" || error instanceof Problem) return error;
  return new Problem({
    code: "unreachable",
    detail: "The service does not answer, or its answer broke off. What was committed is kept.",
  });
}

export function randomKey() {
  const numbers = crypto.getRandomValues(new Uint32Array(4));
  return `console-${[...numbers].map((number) => number.toString(16).padStart(8, "0")).join("")}`;
}

async function problemOf(answer) {
  const told = await answer.json().catch(() => ({}));
  const wait = answer.headers.get("Retry-After");
  return new Problem({
    code: String(told.code || "refused"),
    detail: String(told.detail || `${answer.status} ${answer.statusText}`),
    status: answer.status,
    retryAfter: wait === null ? null : Number(wait),
    requestId: answer.headers.get("X-Request-Id"),
  });
}
