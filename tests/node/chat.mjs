// OpenAI's own client for Node in front of a live runtime: prints what a test compares.
//   node chat.mjs URL
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "none", maxRetries: 0 });
const options = { model: "demo", temperature: 0, max_tokens: 96 };
const seen = {};

seen.models = (await client.models.list()).data.map((model) => model.id);

const repeat = [{ role: "user", content: 'Repeat "one two three four".' }];
const whole = await client.chat.completions.create({ ...options, messages: repeat });
seen.whole = whole.choices[0].message.content;

const asked = { ...options, messages: repeat, reasoning_effort: "high" };
const thought = await client.chat.completions.create(asked);
seen.reasoning = thought.usage.completion_tokens_details.reasoning_tokens;
try {
  await client.chat.completions.create({ ...asked, reasoning_effort: "low" });
} catch (error) {
  seen.unknownEffort = [error.status, error.code, error.param];
}

const stream = await client.chat.completions.create({
  ...options,
  messages: repeat,
  stream: true,
  stream_options: { include_usage: true },
});
let streamed = "";
for await (const chunk of stream) {
  streamed += chunk.choices[0]?.delta.content ?? "";
  if (chunk.usage) seen.usage = chunk.usage;
}
seen.streamed = streamed;

// The client's own loop: calls the function, sends the result, goes on until there is text.
const runner = client.chat.completions.runTools({
  ...options,
  messages: [{ role: "user", content: "What is 318 + 264?" }],
  tools: [
    {
      type: "function",
      function: {
        name: "calculator",
        description: "Computes a sum, a difference or a product.",
        parameters: {
          type: "object",
          properties: { expression: { type: "string" } },
          required: ["expression"],
        },
        parse: JSON.parse,
        function: ({ expression }) => {
          seen.expression = expression;
          const [one, , other] = expression.split(" ");
          return String(Number(one) + Number(other));
        },
      },
    },
  ],
});
seen.answer = await runner.finalContent();
seen.sessions = runner.allChatCompletions().map((one) => one.choices[0].torpor.session);

const point = {
  type: "object",
  properties: { x: { type: "integer" }, bright: { type: "boolean" } },
  required: ["x", "bright"],
  additionalProperties: false,
};
const held = await client.chat.completions.create({
  ...options,
  messages: repeat,
  n: 2,
  logprobs: true,
  response_format: { type: "json_schema", json_schema: { name: "point", schema: point, strict: true } },
});
seen.points = held.choices.map((choice) => Object.keys(JSON.parse(choice.message.content)));
seen.logprobs = held.choices.map((choice) => choice.logprobs.content.map((one) => one.token).join(""));
seen.contents = held.choices.map((choice) => choice.message.content);

try {
  await client.chat.completions.create({ ...options, messages: repeat, frequency_penalty: 1 });
} catch (error) {
  seen.refused = [error instanceof OpenAI.BadRequestError, error.status, error.code, error.param];
}
console.log(JSON.stringify(seen));
