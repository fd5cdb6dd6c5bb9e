//! Words of the streaming dialect that are no keywords of sqlparser's, looked for in tokens.

use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::Emit;

/// Whether the token is this word, unquoted, in any case.
pub fn is(token: &Token, word: &str) -> bool {
    matches!(token, Token::Word(w) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word))
}

/// Whether the tokens begin with these words.
pub fn begins(tokens: &[TokenWithSpan], words: &[&str]) -> bool {
    tokens.len() >= words.len() && tokens.iter().zip(words).all(|(t, w)| is(&t.token, w))
}

/// Whether the next token is this word.
pub fn next_is(parser: &Parser<'_>, word: &str) -> bool {
    is(&parser.peek_token().token, word)
}

/// Takes these words, if they come next.
pub fn take(parser: &mut Parser<'_>, words: &[&str]) -> bool {
    let all = words.iter().enumerate().all(|(n, word)| is(&parser.peek_nth_token(n).token, word));
    if all {
        for _ in words {
            parser.next_token();
        }
    }
    all
}

/// Takes these words, or fails.
pub fn expect(parser: &mut Parser<'_>, words: &[&str]) -> Result<(), ParserError> {
    if take(parser, words) { Ok(()) } else { parser.expected(&words.join(" "), parser.peek_token()) }
}

/// How many tokens open a STATEMENT SET, where they do.
pub fn starts_statement_set(tokens: &[TokenWithSpan]) -> Option<usize> {
    const OPENINGS: [&[&str]; 3] =
        [&["EXECUTE", "STATEMENT", "SET", "BEGIN"], &["BEGIN", "STATEMENT", "SET"], &["STATEMENT", "SET", "BEGIN"]];
    OPENINGS.iter().find(|words| begins(tokens, words)).map(|words| words.len())
}

/// Whether this is a lone END.
pub fn is_end(tokens: &[TokenWithSpan]) -> bool {
    tokens.len() == 1 && begins(tokens, &["END"])
}

/// The EMIT at the end, and how many tokens it is.
pub fn trailing_emit(tokens: &[TokenWithSpan]) -> Option<(Emit, usize)> {
    const FORMS: [(&[&str], Emit); 4] = [
        (&["EMIT", "CHANGES"], Emit::Changes),
        (&["EMIT", "ON", "WINDOW", "CLOSE"], Emit::OnWindowClose),
        (&["EMIT", "FINAL"], Emit::Final),
        (&["EMIT", "ON", "CHANGE"], Emit::Changes),
    ];
    FORMS.iter().find_map(|(words, emit)| {
        let start = tokens.len().checked_sub(words.len())?;
        begins(tokens.get(start..)?, words).then_some((*emit, words.len()))
    })
}
