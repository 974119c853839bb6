// What the page says, in English and Chinese, and the elements that say it.

const TEXTS = {
  en: {
    title: "Image classification",
    model: "The model",
    language: "Language",
    images: "Images",
    pick: "Choose images",
    pickHint: "or drop them anywhere on this page, or paste them with Ctrl+V",
    pickNote: "They are sent to this server alone.",
    photo: "Take a photo",
    clear: "Clear all",
    count: "{done} of {all} done",
    classes: "{count} classes",
    input: "input {width} × {height}",
    waiting: "Waiting",
    sent: "Sent, waiting for the answer",
    needsKey: "Waiting for the API key",
    later: "Not answered yet; tried again after {seconds} s",
    failed: "Not classified",
    done: "Classified",
    time: "{ms} ms from sending to the answer",
    again: "Try again",
    remove: "Remove {name}",
    noPreview: "The browser has no preview of this image",
    attention: "Attention map",
    keyLabel: "This server asks for an API key",
    keyWrong: "The server does not accept this key",
    keyUse: "Use the key",
    keyNote: "It is sent to this server alone, and forgotten when the page is closed.",
    folder: "Folders cannot be dropped here: open the folder and choose the images in it.",
    noImage: "That was not an image file. Save the image first, then choose or drop the file.",
    unreachable: "The server cannot be reached",
    unreadable: "The file cannot be read any more",
    status: "The server answered with status {status}",
    newsDone: "{name}: {label}, {score}",
    newsFailed: "{name}: {reason}",
  },
  zh: {
    title: "图像分类",
    model: "模型",
    language: "语言",
    images: "图片",
    pick: "选择图片",
    pickHint: "也可以拖放到页面任意位置，或按 Ctrl+V 粘贴",
    pickNote: "图片只会发送到本服务器。",
    photo: "拍照",
    clear: "全部清除",
    count: "已完成 {done} / {all}",
    classes: "{count} 个类别",
    input: "输入 {width} × {height}",
    waiting: "等待中",
    sent: "已发送，等待结果",
    needsKey: "等待输入 API 密钥",
    later: "暂无结果，{seconds} 秒后自动重试",
    failed: "未能分类",
    done: "已分类",
    time: "从发送到收到结果用时 {ms} 毫秒",
    again: "重试",
    remove: "移除 {name}",
    noPreview: "浏览器无法预览这张图片",
    attention: "注意力图",
    keyLabel: "此服务器需要 API 密钥",
    keyWrong: "服务器不接受这个密钥",
    keyUse: "使用此密钥",
    keyNote: "密钥只会发送到本服务器，关闭页面后即被清除。",
    folder: "这里不能拖放文件夹，请打开文件夹后选择其中的图片。",
    noImage: "这不是图片文件。请先保存图片，再选择或拖放该文件。",
    unreachable: "无法连接服务器",
    unreadable: "文件已无法读取",
    status: "服务器返回状态码 {status}",
    newsDone: "{name}：{label}，{score}",
    newsFailed: "{name}：{reason}",
  },
};
let language = remembered() ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");
const valuesOf = new WeakMap(); // element -> what stands in the {places} of its words

function remembered() {
  try {
    const name = localStorage.getItem("language");
    return name in TEXTS ? name : null;
  } catch { // a browser that keeps nothing
    return null;
  }
}

export function currentLanguage() {
  return language;
}

export function phrase(name, values = {}) {
  return TEXTS[language][name].replace(/\{(\w+)\}/g, (_, place) => values[place]);
}

function translate(element) {
  const { text, label } = element.dataset, values = valuesOf.get(element);
  if (text) element.textContent = phrase(text, values);
  if (label) element.setAttribute("aria-label", phrase(label, values));
}

/** Shows an element with words of the table, which follow the language from then on. */
export function say(element, name, values = {}) {
  element.dataset.text = name;
  valuesOf.set(element, values);
  translate(element);
  element.hidden = false;
}

/** Shows an element with the server's words, which are the same in every language. */
export function sayPlain(element, text) {
  delete element.dataset.text;
  element.textContent = text;
  element.hidden = false;
}

/** Gives an element a name for screen readers. */
export function label(element, name, values = {}) {
  element.dataset.label = name;
  valuesOf.set(element, values);
  translate(element);
}

/** Puts the words into everything below an element that names some. */
export function translateAll(root) {
  for (const element of root.querySelectorAll("[data-text], [data-label]")) translate(element);
}

/** Changes the language of the page, and remembers it where the browser can. */
export function setLanguage(name) {
  language = name;
  document.documentElement.lang = name === "zh" ? "zh-CN" : name;
  for (const button of document.querySelectorAll("[data-language]"))
    button.setAttribute("aria-pressed", button.dataset.language === name);
  translateAll(document);
}

export function remember(name) {
  try {
    localStorage.setItem("language", name);
  } catch { // then it is the browser's own again next time
  }
}
