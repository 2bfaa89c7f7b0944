-- A small shop, as PostgreSQL 15 reads it. Every card number passes Luhn's test; people and numbers are made up.
create table customers (
    id int primary key,
    name text not null,
    email text not null,
    ssn text not null,
    card_number text not null constraint customers_card_number_key unique,
    phone text,
    city text,
    notes text
);
create table products (id int primary key, sku text not null, title text not null, price numeric(10, 2) not null);
create table orders (
    id int primary key,
    customer_id int not null references customers (id),
    product_id int not null references products (id),
    status text not null default 'open',
    amount numeric(10, 2) not null,
    created_at date not null default '2024-05-01',
    note text
);
create table payroll (
    id serial primary key,
    employee text not null,
    salary int not null,
    iban text not null
);
create table payroll_calendar (day date primary key, label text not null);
create table staging (id int primary key, v text);
create table audit_log (id serial primary key, message text not null);

-- The check digit of a number without one (ISO/IEC 7812-1, annex B), needed here only.
create function pg_temp.luhn(number text) returns text language sql as $$
    select number || (10 - sum(case when (length(number) - place) % 2 = 0
        then (digit * 2) / 10 + (digit * 2) % 10 else digit end) % 10) % 10
    from (select place, substr(number, place, 1)::int as digit from generate_series(1, length(number)) place) digits
$$;

insert into customers
select n,
    first.name || ' ' || last.name,
    lower(first.name || '.' || last.name) || n || '@shop.example',
    lpad((500 + n)::text, 3, '0') || '-' || lpad((10 + n % 89)::text, 2, '0') || '-' || lpad((1000 + n * 7)::text, 4, '0'),
    pg_temp.luhn('41111111' || lpad((n * 37)::text, 7, '0')),
    '+1-202-555-' || lpad(n::text, 4, '0'),
    (array['Leeds', 'Oslo', 'Lyon', 'Lagos', 'Brno', 'Turku'])[1 + n % 6],
    case when n % 9 = 0 then 'called twice' end
from generate_series(1, 200) n
cross join lateral (select (array['Ada', 'Bo', 'Cy', 'Di', 'Ed', 'Flo', 'Gil', 'Hana', 'Ivo', 'Jo'])[1 + n % 10] as name) first
cross join lateral (select (array['Quill', 'Marsh', 'Tran', 'Okoye', 'Novak', 'Reyes', 'Orr'])[1 + n % 7] as name) last;

insert into products select n, 'AX-' || n, 'Thing ' || n, 3 + n * 1.25 from generate_series(1, 40) n;

insert into orders
select n, 1 + n % 200, 1 + n % 40, case when n % 4 = 0 then 'cancelled' when n % 3 = 0 then 'shipped' else 'open' end,
    n * 2.5, date '2024-01-01' + n % 360, 'order ' || n
from generate_series(1, 600) n;

insert into payroll (employee, salary, iban)
select (array['Gil Orr', 'Hal Vos', 'Ines Roth', 'Jan Weis'])[1 + n % 4] || ' ' || n, 40000 + n * 731,
    'ZQ89PAYR' || lpad((n * 7731)::text, 10, '0')
from generate_series(1, 30) n;

insert into payroll_calendar select (date '2024-01-31' + n * interval '1 month')::date, 'payday ' || n from generate_series(0, 11) n;
insert into staging select n, 'v' || n from generate_series(1, 50) n;
insert into audit_log (message) values ('DROP DATABASE was refused yesterday');

create view open_orders as select id, customer_id, amount from orders where status = 'open';
create view contacts as select id, name, email as contact, card_number as token from customers;
analyze;
