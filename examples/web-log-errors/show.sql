SELECT * FROM 'errors.csv' ORDER BY minute;
SELECT line, reason FROM requests$rejected ORDER BY line;
SELECT line, reason FROM errors$late ORDER BY line
