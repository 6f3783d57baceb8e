// The server's page in a real browser: a text is tagged by keyboard only; pictures in light, dark and phone width.
//
//     npm install playwright-core; node tools/page.mjs http://127.0.0.1:8000/ PICTURES [TEXT]
//
// NODE_PATH (or the working directory) says where playwright-core is, CHROMIUM which browser (/usr/bin/chromium),
// EZXMC_SERVE_TOKEN the server's token if it has one. Prints a line of JSON; a check that fails is exit status 1.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(join(process.env.NODE_PATH || process.cwd(), "from-here.js"));
const { chromium } = require("playwright-core");
const [url, pictures, text = "A text editor with colours, for programs in C and Python, that runs in a terminal."] =
  process.argv.slice(2);
const token = process.env.EZXMC_SERVE_TOKEN;

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM || "/usr/bin/chromium" });
const complaints = [];

async function opened(options) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  page.on("console", message => message.type() === "error" && complaints.push(message.text()));
  page.on("pageerror", error => complaints.push(String(error)));
  page.on("dialog", dialog => { complaints.push(`dialog: ${dialog.message()}`); dialog.dismiss(); });
  await page.goto(url);
  return page;
}

const labels = page => page.locator("#labels li").count();
const focused = page => page.evaluate(() => document.activeElement.id);

async function tabTo(page, id) {
  for (let steps = 0; steps < 12; steps++) {
    if (await focused(page) === id) return;
    await page.keyboard.press("Tab");
  }
  assert.fail(`Tab does not lead to #${id}`);
}

async function tagByKeyboard(page) {
  assert.equal(await focused(page), "text", "the text has the focus when the page is there");
  if (token) {
    await page.locator("#asks-token").waitFor({ state: "visible" });
    await tabTo(page, "token");
    await page.keyboard.type(token);
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.getElementById("status").textContent.includes("labels"));
    complaints.splice(0); // the browser's word on status 401
    for (let steps = 0; steps < 3; steps++) await page.keyboard.press("Shift+Tab");
  }
  let requests = 0;
  page.on("request", request => { requests += request.url().endsWith("/v1/tag"); });
  await tabTo(page, "text");
  const last = page.waitForResponse(one => JSON.parse(one.request().postData() || "{}").documents?.[0].text === text);
  await page.keyboard.type(text);
  await (await last).finished();
  await page.waitForFunction(() => /^\d+ labels, \d+ ms$/.test(document.getElementById("status").textContent));
  await page.waitForTimeout(300);
  requests = 0;
  const field = page.locator("#text");
  await field.evaluate(one => { for (let n = 0; n < 30; n++) one.dispatchEvent(new Event("input")); });
  await page.waitForTimeout(600);
  assert.equal(requests, 1, "thirty letters in a row are one request");
}

async function slidersByKeyboard(page) {
  await tabTo(page, "most");
  await page.keyboard.press("Home");
  assert.equal(await labels(page), 1, "at most one label");
  await page.keyboard.press("ArrowRight");
  await tabTo(page, "least");
  await page.keyboard.press("Home");
  assert.equal(await labels(page), 2, "at most two labels, whatever they score");
  await page.keyboard.press("End");
  const left = await labels(page);
  await page.keyboard.press("Home");
  await page.keyboard.press("Shift+Tab");
  for (let steps = 0; steps < 7; steps++) await page.keyboard.press("ArrowRight");
  return left;
}

const light = await opened({ viewport: { width: 1100, height: 720 }, colorScheme: "light" });
await tagByKeyboard(light);
const leftAtTheEnd = await slidersByKeyboard(light);
const found = await light.locator("#labels li").allTextContents();
await light.screenshot({ path: join(pictures, "page-light.png") });
const ground = page => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
const lightGround = await ground(light);
await tabTo(light, "theme");
await light.keyboard.press("Enter");
assert.notEqual(await ground(light), lightGround, "the button makes it dark");

const dark = await opened({ viewport: { width: 1100, height: 720 }, colorScheme: "dark" });
await tagByKeyboard(dark);
assert.notEqual(await ground(dark), lightGround, "dark where the system is");
await dark.screenshot({ path: join(pictures, "page-dark.png") });

const phone = await opened({ viewport: { width: 360, height: 800 }, deviceScaleFactor: 2, colorScheme: "light" });
await tagByKeyboard(phone);
const wide = await phone.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
assert.equal(wide, 0, "nothing is wider than a phone");
await phone.screenshot({ path: join(pictures, "page-phone.png"), fullPage: true });

await phone.keyboard.press("Control+a");
await phone.keyboard.press("Delete");
await phone.waitForFunction(() => document.querySelectorAll("#labels li").length === 0); // no text, no labels
assert.deepEqual(complaints, []);
await browser.close();
console.log(JSON.stringify({ leftAtTheEnd, found }));
