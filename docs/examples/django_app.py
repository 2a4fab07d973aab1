import os
import sys
import time
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import django
from django.conf import settings

DSN = os.environ.get("DATABASE_URL", "")
url = urlsplit(DSN)
default = {
    "ENGINE": "django.db.backends.postgresql", "NAME": url.path[1:], "USER": url.username,
    "PASSWORD": url.password, "HOST": url.hostname, "PORT": url.port,
}  # fmt: skip
if not settings.configured:  # in a project: its settings.py, models.py, views.py and asgi.py
    settings.configure(
        DATABASES={"default": default}, ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], USE_TZ=True
    )
    django.setup()

from django.core.asgi import get_asgi_application  # noqa: E402 (after the set-up)
from django.db import models  # noqa: E402
from django.db.models.functions import Now  # noqa: E402
from django.http import JsonResponse  # noqa: E402
from django.urls import path  # noqa: E402

from session_lock import PostgresDatabase, Runner, TaskTable, each  # noqa: E402
from session_lock.contrib.django import fresh_connections  # noqa: E402
from session_lock.contrib.lifespan import with_lifespan  # noqa: E402


class Mail(models.Model):
    address = models.TextField()
    sent_at = models.DateTimeField(null=True)

    class Meta:
        app_label = "post"
        db_table = "mail"

    def __str__(self):
        return self.address


mails = TaskTable.from_model(
    Mail, pending=models.Q(sent_at=None), finish={"sent_at": Now()}, columns=["address"]
)


@fresh_connections
def send(task):  # in a thread, where the ORM may be used
    time.sleep(0.1)  # here: your mail service, with task.key as its idempotency key
    sys.stdout.write(f"sent to {task.data['address']}\n")  # in one piece, as other threads write too


@asynccontextmanager
async def running():
    async with PostgresDatabase(DSN, mails) as database, Runner(database, each(send)):
        yield


async def post_mail(request):
    mail = await Mail.objects.acreate(address=request.GET["address"])
    return JsonResponse({"id": mail.pk}, status=202)


urlpatterns = [path("mails", post_mail)]
application = with_lifespan(get_asgi_application(), running)
