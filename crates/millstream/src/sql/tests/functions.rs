//! The functions that people bring, with NULL, nothing, characters of several bytes, and several rows.

use super::run::{answer, one};

/// Each expression gives this, as text; NULL is `~`.
async fn gives(cases: &[(&str, &str)]) {
    let mut wrong = vec![];
    for (expr, expected) in cases {
        let sql = format!("SELECT coalesce(CAST({expr} AS VARCHAR), '~') AS x");
        match answer(&sql).await {
            Ok(rows) if rows == [*expected] => {}
            other => wrong.push(format!("{expr} gives {other:?}, not {expected}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Each query is refused, or fails, with these words.
async fn refuses(cases: &[(&str, &str)]) {
    let mut wrong = vec![];
    for (sql, reason) in cases {
        match answer(sql).await {
            Err(error) if error.contains(reason) => {}
            other => wrong.push(format!("{sql} gives {other:?}, not an error with '{reason}'")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn times_are_added_subtracted_and_rounded() {
    gives(&[
        ("TIMESTAMPDIFF(DAY, TIMESTAMP '2026-01-01 12:00:00', TIMESTAMP '2026-01-03 11:59:59')", "1"),
        ("timestampdiff(MONTH, DATE '2026-01-31', DATE '2026-02-28')", "1"),
        ("TIMESTAMPDIFF(MONTH, DATE '2026-02-28', DATE '2026-01-31')", "-1"),
        ("TIMESTAMPDIFF(YEAR, DATE '2024-02-29', DATE '2026-02-28')", "2"),
        ("TIMESTAMPDIFF(QUARTER, DATE '2026-01-01', DATE '2026-06-30')", "1"),
        ("TIMESTAMPDIFF(SECOND, TIMESTAMP '2026-01-01 00:00:01', TIMESTAMP '2026-01-01 00:00:00')", "-1"),
        ("TIMESTAMPDIFF(SQL_TSI_HOUR, TIMESTAMP '2026-01-01 00:00:00', CAST(NULL AS TIMESTAMP))", "~"),
        ("TIMESTAMPADD(MONTH, 1, TIMESTAMP '2026-01-31 01:02:03')", "2026-02-28T01:02:03"),
        ("TIMESTAMPADD(WEEK, -1, DATE '2026-01-01')", "2025-12-25T00:00:00"),
        ("TIMESTAMPADD(SECOND, NULL, TIMESTAMP '2026-01-31 01:02:03')", "~"),
        ("FLOOR(TIMESTAMP '2026-05-15 10:20:30' TO HOUR)", "2026-05-15T10:00:00"),
        ("FLOOR(TIMESTAMP '2026-05-15 10:20:30' TO QUARTER)", "2026-04-01T00:00:00"),
        ("FLOOR(TIMESTAMP '2026-05-15 10:20:30' TO WEEK)", "2026-05-11T00:00:00"),
        ("CEIL(TIMESTAMP '2026-05-15 10:20:30' TO DAY)", "2026-05-16T00:00:00"),
        ("CEIL(TIMESTAMP '2026-05-01 00:00:00' TO MONTH)", "2026-05-01T00:00:00"),
        ("FLOOR(1.5)", "1.0"),
        ("DATE_ADD(DATE '2026-02-28', 1)", "2026-03-01"),
        ("DATE_ADD('2026-02-28', 1)", "2026-03-01"),
        ("DATE_SUB(DATE '2026-03-01', 1)", "2026-02-28"),
        ("DATE_ADD(DATE '2026-03-01', INTERVAL '1' DAY)", "2026-03-02"),
        ("ADD_MONTHS(DATE '2026-03-31', -1)", "2026-02-28"),
        ("LAST_DAY(DATE '2024-02-01')", "2024-02-29"),
        ("DATEDIFF(DATE '2026-03-01', DATE '2026-02-01')", "28"),
        ("datediff(TIMESTAMP '2026-03-01 00:00:00', NULL)", "~"),
        ("QUARTER(DATE '2026-05-15')", "2"),
        ("WEEK(DATE '2026-01-01')", "1"),
        ("DAY(DATE '2026-05-15')", "15"),
        ("WEEKDAY(DATE '2026-05-15')", "4"),
        ("DAYOFYEAR(DATE '2026-02-01')", "32"),
        ("EXTRACT(MINUTE FROM TIMESTAMP '2026-05-15 10:20:30')", "20"),
    ])
    .await;
}

#[tokio::test]
async fn times_are_read_and_written_by_javas_patterns() {
    gives(&[
        ("TO_TIMESTAMP('15/05/2026 10:20', 'dd/MM/yyyy HH:mm')", "2026-05-15T10:20:00"),
        ("TO_TIMESTAMP('15.05.2026', 'dd/MM/yyyy')", "~"),
        ("TO_TIMESTAMP('2026-02-30', 'yyyy-MM-dd')", "~"),
        ("TO_TIMESTAMP(CAST(NULL AS VARCHAR), 'yyyy')", "~"),
        ("TO_TIMESTAMP('2026-05-15 10:20:30')", "2026-05-15T10:20:30Z"),
        ("TO_TIMESTAMP('15 2026', '%j %Y')", "2026-01-15T00:00:00Z"),
        ("TO_DATE('20260515', 'yyyyMMdd')", "2026-05-15"),
        ("TO_DATE('2026-05-15')", "2026-05-15"),
        ("FROM_UNIXTIME(86401)", "1970-01-02 00:00:01"),
        ("FROM_UNIXTIME(-1, 'yyyy')", "1969"),
        ("FROM_UNIXTIME(CAST(NULL AS BIGINT))", "~"),
        ("UNIX_TIMESTAMP('02.01.1970', 'dd.MM.yyyy')", "86400"),
        ("UNIX_TIMESTAMP('x', 'dd.MM.yyyy')", "~"),
        ("CONVERT_TZ('2026-01-01 00:00:00', 'UTC', 'America/Los_Angeles')", "2025-12-31 16:00:00"),
        ("CONVERT_TZ('2026-03-29 02:30:00', 'Europe/Berlin', 'UTC')", "2026-03-29 01:30:00"),
        ("CONVERT_TZ('nothing', 'UTC', '+02:00')", "~"),
        ("FROM_UTC_TIMESTAMP(TIMESTAMP '2026-07-01 00:00:00', 'Europe/Berlin')", "2026-07-01T02:00:00"),
        ("TO_UTC_TIMESTAMP(TIMESTAMP '2026-07-01 00:00:00', 'Europe/Berlin')", "2026-06-30T22:00:00"),
    ])
    .await;
}

#[tokio::test]
async fn text_is_searched_cut_and_joined() {
    gives(&[
        ("LOCATE('é', 'aéé')", "2"),
        ("LOCATE('é', 'aéé', 3)", "3"),
        ("LOCATE('x', 'aéé')", "0"),
        ("LOCATE('', 'abc')", "1"),
        ("LOCATE('a', 'a', 9)", "0"),
        ("LOCATE(NULL, 'a')", "~"),
        ("INSTR('aéé', 'é')", "2"),
        ("POSITION('é' IN 'aé')", "2"),
        ("SUBSTRING_INDEX('a.b.c', '.', 2)", "a.b"),
        ("SUBSTRING('aéc' FROM 2 FOR 1)", "é"),
        ("LEFT('aéc', 2)", "aé"),
        ("LPAD('é', 3, 'x')", "xxé"),
        ("RPAD('é', 3, 'x')", "éxx"),
        ("INITCAP('anna ćosić')", "Anna Ćosić"),
        ("REPEAT('é', 2)", "éé"),
        ("CONCAT('[', SPACE(2), ']')", "[  ]"),
        ("REVERSE('aé')", "éa"),
        ("OVERLAY('abcd' PLACING 'é' FROM 2 FOR 2)", "aéd"),
        ("CHAR_LENGTH('aé')", "2"),
        ("LEN('')", "0"),
        ("ASCII('a')", "97"),
        ("CHR(97)", "a"),
        ("CONCAT_WS('-', 'a', NULL, 'b')", "a-b"),
        ("ELT(2, 'a', 'b')", "b"),
        ("ELT(3, 'a', 'b')", "~"),
        ("UCASE('é')", "É"),
        ("STARTSWITH('abc', 'ab')", "true"),
        ("REGEXP('abc', 'b.')", "true"),
        ("'abc' RLIKE '^b'", "false"),
        ("'abc' NOT RLIKE '^b'", "true"),
        ("REGEXP_REPLACE('aaa', 'a', 'b', 'g')", "bbb"),
        ("SPLIT_INDEX('é|b', '|', 0)", "é"),
        ("COUNT_CHAR('', 'c')", "0"),
        ("Count_Char('éaé', 'é')", "2"),
        ("count_char(NULL, 'c')", "~"),
    ])
    .await;
}

#[tokio::test]
async fn urls_come_apart() {
    const URL: &str = "'http://user:pw@example.org:8080/a/b.html?q=1&r=%C3%A9#top'";
    let part = |part: &str| format!("PARSE_URL({URL}, '{part}')");
    assert_eq!(one(&part("HOST")).await, "example.org");
    assert_eq!(one(&part("PATH")).await, "/a/b.html");
    assert_eq!(one(&part("QUERY")).await, "q=1&r=%C3%A9");
    assert_eq!(one(&part("REF")).await, "top");
    assert_eq!(one(&part("PROTOCOL")).await, "http");
    assert_eq!(one(&part("AUTHORITY")).await, "user:pw@example.org:8080");
    assert_eq!(one(&part("USERINFO")).await, "user:pw");
    assert_eq!(one(&part("FILE")).await, "/a/b.html?q=1&r=%C3%A9");
    assert_eq!(one(&format!("URL_DECODE(PARSE_URL({URL}, 'QUERY', 'r'))")).await, "é");
    gives(&[
        ("PARSE_URL('http://[::1]:80/', 'HOST')", "[::1]"),
        ("PARSE_URL('http://a.b', 'QUERY', 'x')", "~"),
        ("PARSE_URL('no url', 'HOST')", "~"),
        ("PARSE_URL(NULL, 'HOST')", "~"),
        ("URL_ENCODE('a b/é')", "a+b%2F%C3%A9"),
        ("URL_DECODE('%zz')", "~"),
    ])
    .await;
}

#[tokio::test]
async fn bytes_become_text_and_back() {
    gives(&[
        ("MD5('')", "d41d8cd98f00b204e9800998ecf8427e"),
        ("SHA1('abc')", "a9993e364706816aba3e25717850c26c9cd0d89d"),
        ("SHA(NULL)", "~"),
        ("SHA256('abc')", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        ("ENCODE(SHA256('abc'), 'hex')", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        ("SHA2('abc', 224)", "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7"),
        ("HEX(255)", "FF"),
        ("HEX('aé')", "61C3A9"),
        ("HEX(CAST(NULL AS BIGINT))", "~"),
        ("DECODE(UNHEX('61C3A9'), 'UTF-8')", "aé"),
        ("DECODE(UNHEX('zz'), 'UTF-8')", "~"),
        ("DECODE(ENCODE('é', 'UTF-16'), 'UTF-16')", "é"),
        ("HEX(ENCODE('é', 'ISO-8859-1'))", "E9"),
        ("TO_BASE64('ab')", "YWI="),
        ("FROM_BASE64('YWI=')", "ab"),
        ("TO_BASE64(NULL)", "~"),
        ("BIN(5)", "101"),
    ])
    .await;
}

#[tokio::test]
async fn numbers_and_conditions_have_flinks_names() {
    gives(&[
        ("IF(1 = 1, 'a', 'b')", "a"),
        ("IFNULL(NULL, 1)", "1"),
        ("NVL(NULL, 'x')", "x"),
        ("NVL2(NULL, 1, 2)", "2"),
        ("NULLIF(1, 1)", "~"),
        ("ISNULL(NULL)", "true"),
        ("GREATEST(1, 3, 2)", "3"),
        ("LEAST(1, 3, 2)", "1"),
        ("TRY_CAST('x' AS INT)", "~"),
        ("TRUNCATE(42.345, 2)", "42.340"),
        ("MOD(-7, 3)", "-1"),
        ("LOG(2, 8)", "3.0"),
        ("LN(E())", "1.0"),
        ("SIGN(-2)", "-1.0"),
        ("CEILING(1.2)", "2.0"),
        ("TYPEOF(1)", "Int64"),
    ])
    .await;
}

#[tokio::test]
async fn arrays_and_maps_come_of_text_and_apart() {
    gives(&[
        ("SPLIT('a,é,', ',')", "[a, é, ]"),
        ("SPLIT('aé', '')", "[a, é]"),
        ("CARDINALITY(SPLIT('', ','))", "1"),
        ("SPLIT(NULL, ',')", "~"),
        ("SPLIT('a.b', '.')[2]", "b"),
        ("CARDINALITY(ARRAY[1, 2])", "2"),
        ("SIZE(ARRAY[1, 2])", "2"),
        ("ARRAY_CONTAINS(ARRAY['a', 'b'], 'b')", "true"),
        ("ELEMENT(ARRAY['a'])", "a"),
        ("ARRAY_DISTINCT(ARRAY[1, 1])", "[1]"),
        ("SORT_ARRAY(ARRAY[2, 1])", "[1, 2]"),
        ("ARRAY_JOIN(ARRAY['a', 'b'], '-')", "a-b"),
        ("STR_TO_MAP('a=1,b=2')['b']", "2"),
        ("STR_TO_MAP('a:1;a:2;c', ';', ':')['a']", "2"),
        ("STR_TO_MAP('a')['a']", "~"),
        ("STR_TO_MAP('a=1')['b']", "~"),
        ("MAP['k', 1, 'l', 2]['l']", "2"),
        ("MAP_KEYS(MAP['k', 1, 'l', 2])", "[k, l]"),
        ("MAP_VALUES(MAP_FROM_ARRAYS(ARRAY['a'], ARRAY[7]))", "[7]"),
        ("CARDINALITY(MAP['k', 1])", "1"),
    ])
    .await;
}

const DOC: &str = r#"'{"a": {"b": [1.50, "x"], "n": null}, "t": "é\n", "big": 12345678901234567890}'"#;

#[tokio::test]
async fn values_come_out_of_json() {
    let json = |cases: &[(&str, &str)]| -> Vec<(String, String)> {
        cases.iter().map(|(expr, expected)| (expr.replace("DOC", DOC), expected.to_string())).collect()
    };
    let cases = json(&[
        ("JSON_VALUE(DOC, '$.a.b[0]')", "1.50"),
        ("JSON_VALUE(DOC, '$.big')", "12345678901234567890"),
        ("JSON_VALUE(DOC, '$.a.b[0]' RETURNING DOUBLE) * 2", "3.0"),
        ("JSON_VALUE(DOC, '$.a.b[1]' RETURNING INT)", "~"),
        ("JSON_VALUE(DOC, '$.a.b[1]' RETURNING INT DEFAULT -1 ON ERROR)", "-1"),
        ("JSON_VALUE(DOC, 'lax $.z' DEFAULT 'none' ON EMPTY)", "none"),
        ("JSON_VALUE(DOC, 'lax $.z' RETURNING BIGINT DEFAULT (1 + 1) ON EMPTY NULL ON ERROR)", "2"),
        ("JSON_VALUE(DOC, '$.z' DEFAULT 'none' ON EMPTY DEFAULT 'wrong' ON ERROR)", "wrong"),
        ("JSON_VALUE(DOC, '$.a.n')", "~"),
        ("JSON_VALUE(DOC, '$.a')", "~"),
        ("JSON_VALUE('no json', '$.a')", "~"),
        ("JSON_VALUE(NULL, '$.a')", "~"),
        ("JSON_VALUE('', '$')", "~"),
        ("JSON_QUERY(DOC, '$.a')", r#"{"b":[1.50,"x"],"n":null}"#),
        ("JSON_QUERY(DOC, '$.a.b[*]')", r#"[1.50,"x"]"#),
        ("JSON_QUERY(DOC, '$.t')", "~"),
        ("JSON_QUERY(DOC, '$.big' WITH CONDITIONAL ARRAY WRAPPER)", "[12345678901234567890]"),
        ("JSON_QUERY(DOC, 'lax $.z' EMPTY ARRAY ON EMPTY)", "[]"),
        ("JSON_QUERY('x', '$' EMPTY OBJECT ON ERROR)", "{}"),
        ("JSON_EXISTS(DOC, '$.a.b')", "true"),
        ("JSON_EXISTS(DOC, '$.z')", "false"),
        ("JSON_EXISTS('x', '$.z' TRUE ON ERROR)", "true"),
        ("GET_JSON_OBJECT(DOC, '$.a.b')", r#"[1.50,"x"]"#),
        ("GET_JSON_OBJECT(DOC, '$.a.b[1]')", "x"),
        ("GET_JSON_OBJECT(DOC, '$.a.n')", "~"),
        ("DOC -> 'a' -> 'b' -> 0", "1.50"),
        ("DOC -> 'a' ->> 'b'", r#"[1.50, "x"]"#),
        ("DOC ->> 'z'", "~"),
        ("DOC ->> 'big' = '12345678901234567890'", "true"),
        ("'x' = DOC -> 'a' -> 'b' ->> 1 AND DOC ->> 'z' IS NULL", "true"),
        ("CAST(DOC -> 'a' -> 'b' ->> 0 AS DOUBLE) > 1", "true"),
        ("json_get_str('{\"a\": \"é\"}', 'a')", "é"),
        ("JSON_LENGTH('[1, 2]')", "2"),
        ("DOC IS JSON", "true"),
        ("DOC IS JSON ARRAY", "false"),
        ("'[1' IS NOT JSON", "true"),
        ("'1' IS JSON SCALAR AND NOT '1' IS JSON OBJECT", "true"),
        ("JSON_UNQUOTE(JSON_QUOTE('a\"é'))", "a\"é"),
    ]);
    let cases: Vec<(&str, &str)> = cases.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    gives(&cases).await;
}

#[tokio::test]
async fn json_is_made_of_values() {
    gives(&[
        ("JSON_OBJECT('a' VALUE 1, KEY 'b' VALUE 'x\"é')", r#"{"a":1,"b":"x\"é"}"#),
        ("JSON_OBJECT('a' VALUE CAST(NULL AS INT))", r#"{"a":null}"#),
        ("JSON_OBJECT('a' VALUE CAST(NULL AS INT), 'b' VALUE true ABSENT ON NULL)", r#"{"b":true}"#),
        ("JSON_OBJECT()", "{}"),
        ("JSON_OBJECT('a' VALUE JSON_ARRAY(1, JSON_OBJECT('c' VALUE 1.5)))", r#"{"a":[1,{"c":1.5}]}"#),
        ("JSON_ARRAY(1, CAST(NULL AS INT), 'x')", r#"[1,"x"]"#),
        ("JSON_ARRAY(1, CAST(NULL AS INT) NULL ON NULL)", "[1,null]"),
        ("JSON_ARRAY()", "[]"),
        ("JSON_STRING(ARRAY[1, 2])", "[1,2]"),
        ("JSON_STRING('a')", "\"a\""),
        ("JSON_STRING(CAST(NULL AS VARCHAR))", "~"),
    ])
    .await;
}

#[tokio::test]
async fn functions_of_columns_answer_each_row() {
    let sql = "SELECT JSON_VALUE(j, p RETURNING INT DEFAULT n ON ERROR) AS a, JSON_OBJECT(k VALUE n) AS b,
                      TIMESTAMPADD(DAY, n, t) AS c, SPLIT(k, 'b') AS d, STR_TO_MAP(k)['b'] AS e, HEX(n) AS f
               FROM (VALUES ('{\"x\": 5}', '$.x', 'a', 10, TIMESTAMP '2026-01-01 00:00:00'),
                            ('{\"x\": 6}', '$.y', 'b', 11, NULL),
                            ('{\"x\": 7}', 'lax $.y', 'b=c', 12, TIMESTAMP '2026-01-01 00:00:00'))
                    AS v(j, p, k, n, t)";
    assert_eq!(
        answer(sql).await.unwrap(),
        [
            "5,{\"a\":10},2026-01-11T00:00:00,[a],,A",
            "11,{\"b\":11},,[, ],,B",
            ",{\"b=c\":12},2026-01-13T00:00:00,[, =c],c,C",
        ]
    );
}

#[tokio::test]
async fn aggregates_have_flinks_and_sparks_names() {
    let sql = "SELECT LISTAGG(s) AS a, LISTAGG(s, '/') WITHIN GROUP (ORDER BY s DESC) AS b, COLLECT_LIST(s) AS c,
                      COLLECT_SET(n) AS d, COUNT_IF(n > 1) AS e, EVERY(n > 0) AS f, MAX_BY(s, n) AS g, MIN_BY(s, n) AS h,
                      PERCENTILE(n, 0.5) AS i, APPROX_COUNT_DISTINCT(s) AS j, VARIANCE(n) AS k, ANY_VALUE(1) AS l
               FROM (VALUES ('é', 2), ('b', 1), (NULL, 2), ('a', 3)) AS v(s, n)";
    assert_eq!(answer(sql).await.unwrap(), [r"é,b,a,é/b/a,[é, b, a],[1, 2, 3],3,true,a,b,2.0,3,0.6666666666666666,1"]);
}

#[tokio::test]
async fn what_would_mean_two_things_or_nothing_is_refused_with_what_works() {
    refuses(&[
        ("SELECT LOG(10)", "write LN(x) or LOG10(x)"),
        ("SELECT REGEXP_REPLACE('a', 'a', 'b')", "add 'g'"),
        ("SELECT SUBSTRING('abc', -2)", "RIGHT(text, n)"),
        ("SELECT SUBSTR('abc', -2, 1)", "RIGHT(text, n)"),
        ("SELECT SUBSTR('abc', 0, 2)", "RIGHT(text, n)"),
        ("SELECT SUBSTRING('abc' FROM 0)", "RIGHT(text, n)"),
        ("SELECT CAST(CAST('1e308' AS DOUBLE) AS FLOAT)", "too large for a FLOAT"),
        ("SELECT TIMESTAMP '2026-01-01 00:00:00' + INTERVAL '1'", "a length of time without a unit"),
        ("SELECT DATEDIFF(DAY, DATE '2026-01-01', DATE '2026-01-02')", "TIMESTAMPDIFF"),
        ("SELECT COLLECT(n) FROM (VALUES (1)) AS v(n)", "COLLECT_LIST"),
        ("SELECT EXPLODE(ARRAY[1])", "UNNEST"),
        ("SELECT FROM_JSON('{}', 'a INT')", "JSON_VALUE"),
        ("SELECT json_get('{}', 'a')", "->>"),
        ("SELECT RAND_INTEGER(5)", "another value each time"),
        ("SELECT JSON_VALUE('{}', 'a')", "'a' is no path of JSON"),
        ("SELECT JSON_VALUE('{}', '$.a' EMPTY ARRAY ON ERROR)", "this clause is not one of"),
        ("SELECT JSON_VALUE('{}', '$.a' NULL ON MONDAY)", "this is no clause of a function of JSON"),
        ("SELECT JSON_VALUE('{}', '$.a' ERROR ON ERROR)", "the path leads nowhere"),
        ("SELECT JSON_OBJECT('a')", "a value for each key"),
        ("SELECT PARSE_URL('http://a', 'PORT')", "'PORT' is no part of a URL"),
        ("SELECT TIMESTAMPADD(FORTNIGHT, 1, DATE '2026-01-01')", "'FORTNIGHT' is no unit of time"),
        ("SELECT CONVERT_TZ('2026-01-01 00:00:00', 'Mars', 'UTC')", "'Mars' is no time zone"),
        ("SELECT ELEMENT(ARRAY[1, 2])", "2 elements"),
        ("SELECT DECODE('a', 'EBCDIC')", "'EBCDIC' is no character set"),
        ("SELECT TO_TIMESTAMP('x', 'yyyy[MM]')", "is not supported"),
    ])
    .await;
}
