//! The reader of pages of items.

use std::fmt;
use std::sync::Arc;

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use batchwright::item::{ItemReader, stable_hash_after};
use batchwright::scope::StepScope;
use reqwest::header::{HeaderMap, LINK};
use reqwest::{Method, Url};
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::exchange::{Exchange, Requests, find, text_of};
use crate::record::Record;

/// How the next page is found.
#[derive(Debug, Clone)]
pub(super) enum Paging {
    /// There is one page.
    None,
    /// The answer has a cursor, which is a parameter of the next request.
    Cursor { path: String, parameter: String },
    /// The answer has the URL of the next page.
    Next(String),
    /// The header `Link` has the URL of the next page.
    Link,
    /// Pages have numbers from `first` on.
    Number { parameter: String, first: u64 },
    /// A page begins after a number of items.
    Offset(String),
}

/// What a reader is made of.
#[derive(Clone)]
pub(super) struct Pages {
    pub(super) requests: Requests,
    /// The place of the list in the answer.
    pub(super) items: String,
    /// Whether an answer without the list is an empty page.
    pub(super) items_optional: bool,
    pub(super) paging: Paging,
    /// Number of items of a full page, and the parameter that asks for it.
    pub(super) size: Option<u64>,
    pub(super) size_parameter: Option<String>,
}

/// A position: the page, and how many of its items were read.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Position {
    /// The cursor, number, offset or URL of the page; `None` for the first one.
    page: Option<String>,
    /// The number of the page, from 1.
    number: u64,
    read: usize,
    /// Hash of the items that were read.
    before: u64,
    /// Hash of the items of the page before.
    #[serde(default)]
    last: u64,
    /// Number of pages with numbers or offsets that had the same items one after the other.
    #[serde(default)]
    same: u32,
    /// A page before this one, which is compared with all later ones, and how many pages later another one takes its place.
    #[serde(default)]
    compared: Option<String>,
    #[serde(default)]
    until: u64,
    #[serde(default)]
    seen: u64,
}

impl Position {
    /// Returns the beginning of the page `next`, after a page that was read as a whole. To find pages that lead back to one before,
    /// a page is kept for comparison, twice as long each time (R. P. Brent, An improved Monte Carlo factorization algorithm, 1980).
    fn after(&self, next: String) -> Self {
        let (compared, until, seen) = match self.seen >= self.until {
            true => (Some(next.clone()), 2 * self.until.max(1), 0),
            false => (self.compared.clone(), self.until, self.seen + 1),
        };
        let (number, last) = (self.number + 1, self.before);
        let is_same = self.read > 0 && self.number > 1 && self.before == self.last;
        let same = if is_same { self.same + 1 } else { 0 };
        Self { page: Some(next), number, last, same, compared, until, seen, ..Self::default() }
    }
}

/// Number of pages with the same items after which the server ignores their numbers.
const SAME_PAGES_MAX: u32 = 10;
/// Maximum number of items of a page.
const ITEMS_MAX: usize = 1_000_000;

/// The items of a page.
struct Items(Vec<Box<RawValue>>);

impl<'de> Deserialize<'de> for Items {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bounded;

        impl<'de> Visitor<'de> for Bounded {
            type Value = Items;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Items, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element()? {
                    if items.len() == ITEMS_MAX {
                        return Err(A::Error::custom(format!(
                            "it has more than {ITEMS_MAX} items"
                        )));
                    }
                    items.push(item);
                }
                Ok(Items(items))
            }
        }

        deserializer.deserialize_seq(Bounded)
    }
}

fn hash_of(items: &[Box<RawValue>]) -> u64 {
    items.iter().fold(0, |hash, item| stable_hash_after(hash, item.get().as_bytes()))
}

/// A page that was fetched.
struct Page {
    items: Vec<Box<RawValue>>,
    next: Option<String>,
}

pub(super) struct ApiReader {
    pages: Arc<Pages>,
    exchange: Option<Exchange>,
    page: Option<Page>,
    at: Position,
}

impl ApiReader {
    pub(super) fn new(pages: Arc<Pages>) -> Self {
        Self { pages, exchange: None, page: None, at: Position::default() }
    }

    /// Fetches the page of the position.
    fn fetch(&self) -> Result<Page, ItemError> {
        let exchange = self.exchange.as_ref().ok_or_else(|| {
            ItemError::fatal("cannot read from an API before the reader is opened")
        })?;
        let Pages { items, paging, size, size_parameter, .. } = &*self.pages;
        let page = self.at.page.as_deref();
        let mut url = match (paging, page) {
            (Paging::Next(_) | Paging::Link, Some(page)) => join(&exchange.url, page)?,
            _ => exchange.url.clone(),
        };
        let parameter = match paging {
            Paging::Cursor { parameter, .. } => page.map(|page| (parameter, page.to_owned())),
            Paging::Number { parameter, first } => {
                Some((parameter, page.map_or_else(|| first.to_string(), str::to_owned)))
            }
            Paging::Offset(parameter) => Some((parameter, page.unwrap_or("0").to_owned())),
            _ => None,
        };
        if let Some((name, value)) = parameter {
            url.query_pairs_mut().append_pair(name, &value);
        }
        let is_begun = matches!(paging, Paging::Next(_) | Paging::Link) && page.is_some();
        if let (Some(name), Some(size), false) = (size_parameter, size, is_begun) {
            url.query_pairs_mut().append_pair(name, &size.to_string());
        }
        let answer = exchange.send(&Method::GET, &url, false, &|request| request)?;
        let wrong = |why: String| {
            let what = format!("cannot use the answer of {}: {why}", exchange.shown(&url));
            ItemError::new(ErrorKind::new("http.answer"), what)
        };
        let list =
            find(&answer.body, items).map_err(|error| wrong(format!("it is no JSON: {error}")))?;
        let list = match list.map(RawValue::get) {
            Some("null") => "[]",
            Some(list) => list,
            None if self.pages.items_optional => "[]",
            None => {
                let what = "; with `items_optional` an answer without it is an empty page";
                return Err(wrong(format!("it has no `{items}`{what}")));
            }
        };
        let found = serde_json::from_str(list);
        let Items(found) = found.map_err(|error| {
            wrong(match items.as_str() {
                "" => format!("it is no list; `items` names the place of the list ({error})"),
                path => format!("`{path}` is no list ({error})"),
            })
        })?;
        if self.at.same >= SAME_PAGES_MAX {
            let what = format!("its items are those of the {SAME_PAGES_MAX} pages before");
            return Err(wrong(what));
        }
        let next = self.next(&answer.body, &answer.headers, found.len() as u64).map_err(wrong)?;
        if next.is_some() && (next == self.at.page || next == self.at.compared) {
            return Err(wrong("the next page is one that was read before".to_owned()));
        }
        Ok(Page { items: found, next })
    }

    /// Returns what names the page after the current one, which has `count` items.
    fn next(&self, body: &[u8], headers: &HeaderMap, count: u64) -> Result<Option<String>, String> {
        let in_answer = |path: &str| match find(body, path).ok().flatten() {
            None => Ok(None),
            Some(value) if value.get() == "null" => Ok(None),
            Some(value) => match text_of(value) {
                Some(text) => Ok(Some(text).filter(|text| !text.is_empty() && text != "false")),
                None => Err(format!("`{path}` is neither a text nor a number")),
            },
        };
        let is_last = count == 0 || self.pages.size.is_some_and(|size| count < size);
        let number = |default: u64| match &self.at.page {
            None => Ok(default),
            Some(page) => page.parse::<u64>().map_err(|error| error.to_string()),
        };
        match &self.pages.paging {
            Paging::None => Ok(None),
            Paging::Cursor { path, .. } | Paging::Next(path) => in_answer(path),
            Paging::Link => Ok(next_link(headers)),
            Paging::Number { .. } | Paging::Offset(_) if is_last => Ok(None),
            Paging::Number { first, .. } => Ok(Some((number(*first)? + 1).to_string())),
            Paging::Offset(_) => Ok(Some((number(0)? + count).to_string())),
        }
    }
}

/// Returns the URL of the next page, which is at the same server: headers with tokens are sent there.
fn join(base: &Url, next: &str) -> Result<Url, ItemError> {
    let failed = |why: String| {
        let what = format!("cannot read the next page of the API: {why}");
        ItemError::new(ErrorKind::new("http.answer"), what)
    };
    let mut url = base.join(next).map_err(|error| failed(error.to_string()))?;
    if url.origin() != base.origin() {
        let origin = url.origin().ascii_serialization();
        return Err(failed(format!("it is at another server, {origin}")));
    }
    let _ = url.set_username(base.username());
    let _ = url.set_password(base.password());
    Ok(url)
}

/// Returns the target of the link with the relation `next` (RFC 8288).
fn next_link(headers: &HeaderMap) -> Option<String> {
    for value in headers.get_all(LINK) {
        // A title can be in any encoding.
        let value = String::from_utf8_lossy(value.as_bytes());
        // A target may contain commas, so links are divided before `<`.
        for link in value.split('<').skip(1) {
            let Some((target, parameters)) = link.split_once('>') else { continue };
            let is_next = parameters.split([';', ',']).any(|parameter| {
                let Some((name, relation)) = parameter.split_once('=') else { return false };
                name.trim().eq_ignore_ascii_case("rel")
                    && relation
                        .trim()
                        .trim_matches('"')
                        .split(' ')
                        .any(|one| one.eq_ignore_ascii_case("next"))
            });
            if is_next {
                return Some(target.to_owned());
            }
        }
    }
    None
}

impl ItemReader for ApiReader {
    type Item = Record;
    type Position = Position;

    fn open(&mut self, position: Option<Position>, scope: &StepScope) -> Result<(), ItemError> {
        self.exchange = Some(self.pages.requests.exchange(scope)?);
        self.page = None;
        self.at =
            position.unwrap_or_else(|| Position { number: 1, until: 1, ..Position::default() });
        if self.at.read == 0 {
            return Ok(());
        }
        let page = self.fetch()?;
        let read = &page.items[..self.at.read.min(page.items.len())];
        if read.len() < self.at.read || hash_of(read) != self.at.before {
            let what = format!(
                "cannot restart: page {} of the API has other items than those that were read",
                self.at.number
            );
            return Err(ItemError::new(ErrorKind::INPUT_CHANGED, what));
        }
        self.page = Some(page);
        Ok(())
    }

    fn read(&mut self) -> Result<Option<Record>, ItemError> {
        loop {
            let page = match self.page.take() {
                Some(page) => page,
                None => self.fetch()?,
            };
            if let Some(item) = page.items.get(self.at.read) {
                let record = serde_json::from_str(item.get()).map_err(|error| {
                    let place = format!("page {}, item {}", self.at.number, self.at.read + 1);
                    ItemError::wrap(ErrorKind::PARSE, "cannot read the item as an object", error)
                        .at(place)
                        .with_raw(item.get().as_bytes())
                });
                self.page = Some(page);
                if record.is_ok() {
                    self.pass_over()?;
                }
                return record.map(Some);
            }
            let Some(next) = page.next.clone() else {
                self.page = Some(page);
                return Ok(None);
            };
            self.at = self.at.after(next);
        }
    }

    fn position(&self) -> Position {
        self.at.clone()
    }

    fn rereads(&self) -> bool {
        true
    }

    fn pass_over(&mut self) -> Result<(), ItemError> {
        let item = self.page.as_ref().and_then(|page| page.items.get(self.at.read));
        let item = item.ok_or_else(|| {
            ItemError::fatal("cannot skip a page of an API that could not be fetched")
        })?;
        self.at.before = stable_hash_after(self.at.before, item.get().as_bytes());
        self.at.read += 1;
        Ok(())
    }

    fn reads_ahead(&self) -> bool {
        true
    }

    fn close(&mut self) -> Result<(), ItemError> {
        (self.exchange, self.page) = (None, None);
        Ok(())
    }
}
