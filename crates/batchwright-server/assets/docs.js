// Shows the OpenAPI document: one section per tag, one entry per operation. Works offline.
const api = await (await fetch(new URL('../v1/openapi.json', import.meta.url))).json();
const main = document.getElementById('operations');
main.textContent = '';

const element = (name, text, parent) => {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  parent?.append(made);
  return made;
};

const sections = new Map();
for (const [path, item] of Object.entries(api.paths)) {
  for (const [method, operation] of Object.entries(item)) {
    const tag = operation.tags?.[0] ?? 'other';
    if (!sections.has(tag)) {
      const section = element('section', undefined, main);
      element('h2', tag, section);
      sections.set(tag, section);
    }
    const details = element('details', undefined, sections.get(tag));
    const summary = element('summary', undefined, details);
    element('span', method.toUpperCase(), summary).className = 'method';
    element('code', path, summary);
    element('span', ` ${operation.summary ?? ''}`, summary);
    if (operation.description) element('p', operation.description, details);
    for (const [title, part] of [
      ['Parameters', operation.parameters],
      ['Body', operation.requestBody?.content],
      ['Responses', operation.responses],
    ]) {
      if (!part) continue;
      element('h3', title, details);
      element('pre', JSON.stringify(part, null, 2), details);
    }
  }
}
const schemas = element('details', undefined, main);
element('summary', 'Schemas', schemas);
element('pre', JSON.stringify(api.components?.schemas, null, 2), schemas);
