//! Serves the book under `/book`.

use axum::extract::Path;
use axum::http::header;
use axum::response::{Html, IntoResponse, Redirect};
use include_dir::{Dir, include_dir};
use pulldown_cmark::{CowStr, Event, HeadingLevel, Options, Parser, Tag, TagEnd, html};

use super::Problem;

/// The chapters in Markdown, and `SUMMARY.md`, which lists them.
static BOOK: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/assets/book");
const LAYOUT: &str = include_str!("../../assets/book.html");
const FIRST: &str = "introduction";

/// Redirects to the first chapter.
pub(super) async fn first() -> Redirect {
    Redirect::to(&format!("/book/{FIRST}"))
}

/// Returns the chapter `name`.
pub(super) async fn chapter(Path(name): Path<String>) -> Result<Html<String>, Problem> {
    page(&name).map(Html).ok_or_else(|| Problem::not_found("the book has no such chapter"))
}

/// Returns the picture `name` of the book.
pub(super) async fn picture(Path(name): Path<String>) -> Result<impl IntoResponse, Problem> {
    let file = BOOK.get_file(format!("pictures/{name}")).filter(|_| name.ends_with(".png"));
    let file = file.ok_or_else(|| Problem::not_found("the book has no such picture"))?;
    Ok(([(header::CONTENT_TYPE, "image/png")], file.contents()))
}

fn page(name: &str) -> Option<String> {
    let chapters = chapters();
    let (_, title) = chapters.iter().find(|(known, _)| *known == name)?;
    let text = BOOK.get_file(format!("{name}.md"))?.contents_utf8()?;
    let list: String = chapters
        .iter()
        .map(|(known, title)| {
            let current = if *known == name { " aria-current=\"page\"" } else { "" };
            format!("<li><a href=\"{known}\"{current}>{title}</a></li>")
        })
        .collect();
    let page =
        LAYOUT.replace("{title}", &format!("{title}: Batchwright")).replace("{chapters}", &list);
    Some(page.replace("{text}", &as_html(text)))
}

/// Returns names and titles of the chapters, in their order.
fn chapters() -> Vec<(&'static str, &'static str)> {
    let summary = BOOK.get_file("SUMMARY.md").and_then(|file| file.contents_utf8());
    let lines = summary.unwrap_or_default().lines();
    lines
        .filter_map(|line| {
            let (title, file) = line.split_once('[')?.1.split_once("](")?;
            Some((file.strip_suffix(".md)")?, title))
        })
        .collect()
}

fn as_html(text: &str) -> String {
    let mut events: Vec<Event<'_>> = Parser::new_ext(text, Options::ENABLE_TABLES).collect();
    name_headings(&mut events);
    // Whether the open link leads to a document that is not served; then only its text is shown.
    let mut is_nowhere = false;
    let events = events.into_iter().filter_map(|event| match event {
        Event::Start(Tag::Link { link_type, dest_url, title, id }) => {
            let address = address(dest_url);
            is_nowhere = address.is_none();
            let link = |dest_url| Tag::Link { link_type, dest_url, title, id };
            address.map(link).map(Event::Start)
        }
        Event::End(TagEnd::Link) if is_nowhere => None,
        other => Some(other),
    });
    let mut page = String::with_capacity(text.len() * 2);
    html::push_html(&mut page, events);
    // What is wide gets its own scroll bar, which keys reach, too.
    page.replace("<table>", "<div tabindex=\"0\"><table>")
        .replace("</table>", "</table></div>")
        .replace("<pre>", "<pre tabindex=\"0\">")
}

/// Returns the address of a link between the files of the book: another chapter, or the page of an error
/// code. `None` for another document of the repository, which is not served.
fn address(link: CowStr<'_>) -> Option<CowStr<'_>> {
    let (path, place) = match link.split_once('#') {
        Some((path, place)) => (path, format!("#{place}")),
        None => (&*link, String::new()),
    };
    let Some(name) = path.strip_suffix(".md") else { return Some(link) };
    match name.strip_prefix("../../errors/") {
        Some("README") => None,
        Some(code) => Some(format!("../errors/{code}{place}").into()),
        None if !name.contains('/') => Some(format!("{name}{place}").into()),
        None => None,
    }
}

/// Sets the id of each heading from its text, as links expect it: lower-case letters and digits, hyphens for
/// spaces.
fn name_headings(events: &mut [Event<'_>]) {
    let mut open: Option<(usize, String)> = None;
    for at in 0..events.len() {
        match &events[at] {
            Event::Start(Tag::Heading { level, .. }) if *level != HeadingLevel::H1 => {
                open = Some((at, String::new()));
            }
            Event::Text(text) | Event::Code(text) => {
                if let Some((_, words)) = &mut open {
                    words.push_str(text);
                }
            }
            Event::End(TagEnd::Heading(_)) => {
                if let Some((begin, words)) = open.take()
                    && let Event::Start(Tag::Heading { id, .. }) = &mut events[begin]
                {
                    *id = Some(slug(&words).into());
                }
            }
            _ => {}
        }
    }
}

fn slug(words: &str) -> String {
    let kept = |letter: &char| letter.is_alphanumeric() || [' ', '-', '_'].contains(letter);
    words
        .to_lowercase()
        .chars()
        .filter(kept)
        .map(|one| if one == ' ' { '-' } else { one })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chapter_is_served_and_its_links_lead_somewhere() {
        let chapters = chapters();
        assert_eq!(chapters[0].0, FIRST);
        let files =
            BOOK.files().filter(|file| file.path().extension().is_some_and(|it| it == "md"));
        assert_eq!(files.count(), chapters.len() + 1, "every file is in the list");
        for (name, _) in &chapters {
            let page = page(name).unwrap();
            assert!(page.contains("<h1>") && !page.contains("{{#"), "{name}");
            for link in page.split("href=\"").skip(1) {
                let link = link.split('"').next().unwrap();
                let (path, place) = link.split_once('#').unwrap_or((link, ""));
                let other = match path.strip_prefix("../errors/") {
                    Some(code) => {
                        assert!(super::super::errors::text(code).is_some(), "{name}: {link}");
                        continue;
                    }
                    // An address elsewhere, or the icon within the page.
                    None if path.contains("://") || path.starts_with("data:") => continue,
                    None if path.is_empty() => Some(page.clone()),
                    None => super::page(path),
                };
                let other = other.unwrap_or_else(|| panic!("{name}: {link}"));
                assert!(
                    place.is_empty() || other.contains(&format!("id=\"{place}\"")),
                    "{name}: no heading has the id `{place}`"
                );
            }
        }
    }
}
