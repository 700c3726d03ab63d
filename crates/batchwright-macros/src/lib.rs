//! The attribute macro that registers a job at link time, re-exported as `batchwright::job`.

use proc_macro::{Delimiter, TokenStream, TokenTree};

/// Registers the job that the function (or the `JobFactory` of the type) makes, under `name`.
///
/// ```text
/// #[batchwright::job(name = "nightly")]
/// fn nightly(state: &AppState) -> Result<Job, String> { … }
/// ```
#[proc_macro_attribute]
pub fn job(attribute: TokenStream, item: TokenStream) -> TokenStream {
    let submitted = name_of(attribute).and_then(|name| {
        let make = maker_of(item.clone())?;
        format!(
            "::batchwright::discovery::submit! {{ ::batchwright::registry::DiscoveredJob {{ \
             name: {name}, origin: ::core::env!(\"CARGO_PKG_NAME\"), make: {make} }} }}"
        )
        .parse::<TokenStream>()
        .map_err(|error| error.to_string())
    });
    let mut output = item;
    output.extend(submitted.unwrap_or_else(|problem| {
        format!("::core::compile_error!({problem:?});").parse().expect("a literal is valid Rust")
    }));
    output
}

/// Returns the string literal of `name = "…"`.
fn name_of(attribute: TokenStream) -> Result<String, String> {
    let tokens: Vec<_> = attribute.into_iter().collect();
    match &tokens[..] {
        [TokenTree::Ident(key), TokenTree::Punct(equals), TokenTree::Literal(name)]
            if key.to_string() == "name"
                && equals.as_char() == '='
                && name.to_string().starts_with('"') =>
        {
            Ok(name.to_string())
        }
        _ => Err("write `#[batchwright::job(name = \"…\")]`".to_owned()),
    }
}

/// Returns the path of the function that makes the job.
fn maker_of(item: TokenStream) -> Result<String, String> {
    let mut tokens = item.into_iter().peekable();
    while let Some(token) = tokens.next() {
        let TokenTree::Ident(word) = token else { continue };
        let keyword = word.to_string();
        if !matches!(keyword.as_str(), "fn" | "struct" | "enum") {
            continue;
        }
        let Some(TokenTree::Ident(name)) = tokens.next() else { break };
        if matches!(tokens.peek(), Some(TokenTree::Punct(next)) if next.as_char() == '<') {
            return Err("a discovered job cannot be generic".to_owned());
        }
        return match keyword.as_str() {
            "fn" if takes_nothing(tokens.next()) => Ok(format!("|_| {name}()")),
            "fn" => Ok(name.to_string()),
            _ => Ok(format!("<{name} as ::batchwright::registry::JobFactory>::job")),
        };
    }
    Err("`#[batchwright::job]` must be on a function or on a type".to_owned())
}

fn takes_nothing(parameters: Option<TokenTree>) -> bool {
    matches!(parameters, Some(TokenTree::Group(group))
        if group.delimiter() == Delimiter::Parenthesis && group.stream().is_empty())
}
