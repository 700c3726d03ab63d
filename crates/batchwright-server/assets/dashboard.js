// The dashboard's script: live pages, times in the viewer's zone, keys, the theme. Pages can be read without it.
'use strict';
(() => {
  const base = document.body.dataset.base || '';

  // ---- times
  const zone = { dateStyle: 'medium', timeStyle: 'long' };
  const coarse = (seconds) => {
    const all = Math.max(0, Math.floor(seconds));
    if (all < 60) return `${all} s`;
    if (all < 3600) return `${Math.floor(all / 60)} min`;
    if (all < 172800) return `${Math.floor(all / 3600)} h`;
    return `${Math.floor(all / 86400)} d`;
  };
  const showTimes = (root) => {
    for (const time of root.querySelectorAll('time[datetime]')) {
      const at = new Date(time.dateTime);
      time.title = `${at.toLocaleString(undefined, zone)} (${time.dateTime})`;
      if ('ago' in time.dataset) {
        const distance = (Date.now() - at) / 1000;
        const text = distance >= 5 ? `${coarse(distance)} ago` : distance >= -1 ? 'now' : `in ${coarse(-distance)}`;
        if (time.textContent !== text) time.textContent = text;
      } else if ('clock' in time.dataset) {
        const two = (number) => String(number).padStart(2, '0');
        const text = `${two(at.getMonth() + 1)}-${two(at.getDate())} ${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
        if (time.textContent !== text) time.textContent = text;
      }
    }
    for (const hour of root.querySelectorAll('[data-hour]')) {
      hour.textContent = new Date(hour.dataset.hour).toLocaleTimeString(undefined, { hour: '2-digit', minute: '2-digit', hour12: false });
    }
  };

  // ---- searches that this browser keeps
  const keptSearches = () => {
    try { return JSON.parse(localStorage.getItem('batchwright-searches') || '[]').filter((it) => typeof it === 'string').slice(0, 20); } catch { return []; }
  };
  const showSearches = (root) => {
    const views = root.querySelector('nav.views');
    if (!views) return;
    const words = (new URLSearchParams(location.search).get('q') || '').trim(), kept = keptSearches();
    const isGiven = Boolean(views.querySelector('[aria-current]'));
    for (const search of kept) {
      const link = Object.assign(document.createElement('a'), { textContent: search, href: `${base}/executions?q=${encodeURIComponent(search)}` });
      if (search === words) link.setAttribute('aria-current', 'true');
      views.append(link);
    }
    if (words && !isGiven) {
      const button = Object.assign(document.createElement('button'), { type: 'button', textContent: kept.includes(words) ? 'Forget this search' : 'Keep this search' });
      button.dataset.keep = words;
      views.append(button);
    }
  };
  document.addEventListener('click', (event) => {
    const words = event.target.dataset && event.target.dataset.keep;
    if (!words) return;
    const kept = keptSearches();
    const changed = kept.includes(words) ? kept.filter((it) => it !== words) : [words, ...kept].slice(0, 20);
    try { localStorage.setItem('batchwright-searches', JSON.stringify(changed)); } catch { /* without storage nothing is kept */ }
    location.reload();
  });

  // ---- live pages: the page is fetched again after a change, and only what differs is replaced
  const keyOf = (node) => node.nodeType === 1 ? `${node.tagName}#${node.id}` : `${node.nodeType}`;
  const morph = (old, fresh) => {
    for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name) && name !== 'open') old.removeAttribute(name);
    for (const { name, value } of [...fresh.attributes]) {
      if (name === 'title' && old.tagName === 'TIME') continue;
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    let at = old.firstChild;
    for (const next of [...fresh.childNodes]) {
      // An element that has a name is found again wherever it was, so that what follows it keeps its focus.
      if (next.nodeType === 1 && next.id && !(at && at.id === next.id)) {
        const same = [...old.children].find((child) => child.id === next.id);
        if (same) { old.insertBefore(same, at); at = same; }
      }
      if (at && keyOf(at) === keyOf(next)) {
        if (at.nodeType === 3) { if (at.data !== next.data) at.data = next.data; }
        else if (at.nodeType === 1 && !at.isEqualNode(next)) morph(at, next);
        at = at.nextSibling;
      } else {
        old.insertBefore(document.importNode(next, true), at);
      }
    }
    while (at) { const gone = at; at = at.nextSibling; gone.remove(); }
  };
  // What a person is doing is not disturbed: an open form, a chosen box, text that is selected.
  const isBusy = () => document.querySelector('main details.ask[open], main input:checked:not([name=dry_run]), dialog[open]')
    || (document.activeElement && document.activeElement.matches('main input, main textarea, main select, main form button'))
    || document.querySelector('main form button:hover')
    || (getSelection() && !getSelection().isCollapsed);
  const main = document.getElementById('main');
  const sign = Object.assign(document.createElement('p'), { className: 'live', hidden: true });
  sign.setAttribute('role', 'status');
  document.body.append(sign);
  const notLive = (text) => { sign.textContent = text; sign.hidden = !text; };
  let showCommand = () => {};
  const isLive = main && !main.classList.contains('plain') && !main.querySelector('[data-still]');
  let due = false, fetching = false, last = 0, signedOut = false, silent = () => {};
  const refresh = async () => {
    if (fetching || document.hidden || isBusy()) return;
    fetching = true; due = false; last = Date.now();
    try {
      const answer = await fetch(location.href, { headers: { accept: 'text/html' }, redirect: 'manual' });
      if (answer.type === 'opaqueredirect' || answer.status === 401) { signedOut = true; silent(); notLive('Signed out: load the page again'); return; }
      if (answer.status >= 500 || answer.status === 429) { due = true; last = Date.now() + 4000; }
      else if (!answer.ok) { notLive('This page is not there any more'); main.querySelector('[data-poll]')?.remove(); }
      if (answer.ok) {
        const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
        const fresh = page.getElementById('main');
        if (fresh && !isBusy()) {
          for (const form of fresh.querySelectorAll('form[data-launch]')) {
            // The form keeps what a person has typed, and gets the words that a new session or server wants.
            const known = main.querySelector('form[data-launch]');
            if (!known) continue;
            known.elements.form_key.value = form.elements.form_key.value;
            form.replaceWith(known.cloneNode(true));
          }
          showTimes(fresh);
          showSearches(fresh);
          morph(main, fresh);
          showCommand();
        }
      }
    } catch { due = true; last = Date.now() + 4000; } finally { fetching = false; }
  };
  if (isLive) {
    const changed = () => { due = true; };
    let events = null;
    const listen = () => {
      if (events || document.hidden || signedOut) return;
      events = new EventSource(`${base}/v1/events`);
      events.addEventListener('status', changed);
      events.addEventListener('progress', changed);
      // What changed before the stream began is on no stream.
      events.onopen = () => { notLive(''); due = true; };
      events.onerror = () => {
        notLive('Not live: connecting again');
        // A stream that is refused is so because of a session that ended, or of a server that does: the page itself tells which.
        if (events && events.readyState === EventSource.CLOSED) { silent(); due = true; setTimeout(listen, 5000); }
      };
    };
    // A hidden page gives its connection back, of which a browser has six for a server.
    silent = () => { events?.close(); events = null; };
    document.addEventListener('visibilitychange', () => { if (document.hidden) silent(); else listen(); });
    addEventListener('pagehide', () => silent());
    addEventListener('pageshow', (event) => { if (event.persisted) location.reload(); });
    listen();
    setInterval(() => {
      showTimes(document);
      if (!signedOut && main.querySelector('[data-poll]')) due = true;
      if (due && Date.now() - last > 900) refresh();
    }, 500);
  }
  showTimes(document);
  showSearches(document);

  // ---- the theme
  const themes = ['', 'light', 'dark'];
  const setTheme = (theme) => {
    if (theme) document.documentElement.dataset.theme = theme; else delete document.documentElement.dataset.theme;
    const button = document.querySelector('[data-theme-switch]');
    if (button) { button.hidden = false; button.textContent = `Theme: ${theme || 'auto'}`; }
  };
  let theme = '';
  try { theme = localStorage.getItem('batchwright-theme') || ''; } catch { /* without storage the system's theme counts */ }
  setTheme(themes.includes(theme) ? theme : '');
  document.querySelector('[data-theme-switch]')?.addEventListener('click', () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    try { localStorage.setItem('batchwright-theme', theme); } catch { /* as above */ }
    setTheme(theme);
  });

  // ---- the launch form as a command line and as a request
  const launch = document.querySelector('form[data-launch]');
  if (launch) {
    const quoted = (text) => /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
    const show = () => {
      if (!launch.isConnected || !document.querySelector('[data-as-command]')) return;
      const words = [], json = {};
      for (const field of launch.querySelectorAll('[name^="p."]')) {
        const name = field.name.slice(2), type = field.dataset.type;
        if (field.value === '') continue;
        const value = type === 'secret' ? '***' : field.value;
        words.push(quoted(`${name}=${value}`));
        const isPlain = (type === 'integer' || type === 'float') && String(Number(value)) === value;
        json[name] = type === 'boolean' ? value === 'true' : isPlain ? Number(value) : value;
      }
      for (const line of (launch.querySelector('[data-others]')?.value || '').split('\n')) {
        const at = line.indexOf('=');
        if (at < 1) continue;
        words.push(quoted(line.trim()));
        const role = line.startsWith('-'), [name, type] = line.slice(role ? 1 : 0, at).split(':').map((word) => word.trim());
        json[name] = { value: line.slice(at + 1).trim(), type: type || 'string', identifying: !role };
      }
      const body = { parameters: json };
      if (launch.elements.new_only?.checked) { words.push('--new-only'); body.new_only = true; }
      const name = launch.dataset.launch;
      document.querySelector('[data-as-command]').textContent = ['batchwright start', quoted(name), ...words].join(' ');
      document.querySelector('[data-as-curl]').textContent = `curl -X POST ${quoted(`${location.origin}${base}/v1/jobs/${encodeURIComponent(name)}/executions`)} -H 'authorization: Bearer TOKEN' -H 'content-type: application/json' -d ${quoted(JSON.stringify(body))}`;
    };
    launch.addEventListener('input', show);
    showCommand = show;
    show();
  }

  // ---- the palette and keys
  const places = () => [...document.querySelectorAll('.top nav a, .actions a, .views a, main h1 ~ nav a, main .list td:first-child a')]
    .map((link) => [link.textContent.trim(), link.getAttribute('href')])
    .concat([...document.querySelectorAll('.actions > form button, .actions summary')].map((button) => [`Command: ${button.textContent.trim()}`, button]))
    .concat([['API documentation', `${base}/docs`], ['The book', `${base}/book`]]);
  let quick = null;
  const openPalette = () => {
    quick ??= document.body.appendChild(Object.assign(document.createElement('dialog'), { className: 'quick' }));
    quick.setAttribute('aria-label', 'Go to a page or run a command');
    quick.replaceChildren();
    const input = quick.appendChild(Object.assign(document.createElement('input'), { type: 'search', placeholder: 'A page, a command, or the number of an execution' }));
    for (const [name, value] of [['aria-label', 'Page or command'], ['role', 'combobox'], ['aria-expanded', 'true'], ['aria-controls', 'quick-list'], ['aria-autocomplete', 'list']]) input.setAttribute(name, value);
    const list = quick.appendChild(document.createElement('ul'));
    list.id = 'quick-list';
    list.setAttribute('role', 'listbox');
    list.setAttribute('aria-label', 'Pages and commands');
    let chosen = 0, shown = [];
    const go = (target) => {
      quick.close();
      if (typeof target === 'string') location.href = target;
      else { target.focus(); target.click(); }
    };
    const draw = () => {
      const given = input.value.trim(), words = given.toLowerCase();
      const number = /^\d+$/.test(words) ? [[`Execution ${words}`, `${base}/executions/${words}`]] : [];
      const search = words.includes(':') ? [[`Search executions: ${given}`, `${base}/executions?q=${encodeURIComponent(given)}`]] : [];
      shown = number.concat(search, places().filter(([name]) => name.toLowerCase().includes(words))).slice(0, 30);
      chosen = Math.min(chosen, Math.max(0, shown.length - 1));
      list.replaceChildren(...shown.map(([name, target], index) => {
        const item = document.createElement('li');
        item.id = `quick-${index}`;
        item.setAttribute('role', 'option');
        item.setAttribute('aria-selected', String(index === chosen));
        const link = item.appendChild(Object.assign(document.createElement('a'), { textContent: name, href: typeof target === 'string' ? target : '#', tabIndex: -1 }));
        link.addEventListener('click', (event) => { event.preventDefault(); go(target); });
        return item;
      }));
      list.children[chosen]?.scrollIntoView({ block: 'nearest' });
      input.setAttribute('aria-activedescendant', shown.length ? `quick-${chosen}` : '');
    };
    input.addEventListener('input', () => { chosen = 0; draw(); });
    input.addEventListener('keydown', (event) => {
      if (event.key === 'ArrowDown') chosen += 1;
      else if (event.key === 'ArrowUp') chosen = Math.max(0, chosen - 1);
      else if (event.key === 'Enter' && shown[chosen]) { event.preventDefault(); go(shown[chosen][1]); return; }
      else return;
      event.preventDefault();
      draw();
    });
    draw();
    quick.showModal();
  };
  const paletteButton = document.querySelector('[data-palette]');
  if (paletteButton) { paletteButton.hidden = false; paletteButton.addEventListener('click', openPalette); }
  const move = (step) => {
    const rows = [...document.querySelectorAll('main .list tbody tr')].filter((row) => row.querySelector('a'));
    if (rows.length === 0) return;
    const at = rows.indexOf(document.activeElement.closest('tr'));
    rows[Math.max(0, Math.min(rows.length - 1, at + step))].querySelector('a').focus();
  };
  document.addEventListener('keydown', (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key === 'k') { event.preventDefault(); openPalette(); return; }
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches('input, textarea, select')) return;
    if (event.key === 'j') move(1);
    else if (event.key === 'k') move(-1);
    else if (event.key === '/') { event.preventDefault(); document.querySelector('main input[type=search]')?.focus(); }
    else if (event.key === '?') openPalette();
  });
  // A record that is corrected is one to replay.
  document.addEventListener('input', (event) => {
    const tick = event.target.type === 'checkbox' ? null : event.target.closest('fieldset.record')?.querySelector('[name^="chosen."]');
    if (tick) tick.checked = true;
  });
  // A second click on a form does nothing.
  document.addEventListener('submit', (event) => {
    // The next person at this browser does not see what this one has searched.
    if (event.target.action.endsWith('/sign-out')) try { localStorage.removeItem('batchwright-searches'); } catch { /* nothing is kept */ }
    if (event.target.dataset.sent) event.preventDefault();
    else { event.target.dataset.sent = 'yes'; setTimeout(() => delete event.target.dataset.sent, 4000); }
  });
})();
