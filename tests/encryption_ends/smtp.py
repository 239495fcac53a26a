"""A mail server of aiosmtpd, and a client that sends a short mail.

    smtp.py serve PORT starttls|clear CERTIFICATE KEY
    smtp.py send PORT HOST starttls|opportunistic|clear CANARY
"""

import asyncio
import smtplib
import ssl
import sys


def serve():
    from aiosmtpd.smtp import SMTP

    class Mailbox:
        async def handle_DATA(self, server, session, envelope):
            return "250 delivered"

    context = None
    if sys.argv[3] == "starttls":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[4], sys.argv[5])
    loop = asyncio.new_event_loop()
    made = loop.create_server(
        lambda: SMTP(Mailbox(), hostname="mail.example", tls_context=context, loop=loop),
        "0.0.0.0",
        int(sys.argv[2]),
    )
    loop.run_until_complete(made)
    loop.run_forever()


def send():
    how = sys.argv[4]
    with smtplib.SMTP(sys.argv[3], int(sys.argv[2]), "tenant.example", timeout=3) as client:
        client.ehlo()
        if how == "starttls" or (how == "opportunistic" and client.has_extn("starttls")):
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            client.starttls(context=context)
            client.ehlo()
        client.mail("a@tenant.example")
        client.rcpt("b@mail.example")
        code, answer = client.data(f"Subject: {sys.argv[5]}\r\n\r\n{sys.argv[5]}\r\n")
        print(code, answer.decode())


serve() if sys.argv[1] == "serve" else send()
